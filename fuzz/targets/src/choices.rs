//! Bytes as a list of choices, for targets whose input is a value and not a text.

/// Hands out choices until the bytes are used up, then always the first one.
pub(crate) struct Choices<'d>(&'d [u8]);

impl<'d> Choices<'d> {
    pub(crate) fn new(data: &'d [u8]) -> Self {
        Self(data)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                usize::from(*first) % end
            }
            [] => 0,
        }
    }

    /// One of these.
    pub(crate) fn of<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }

    /// A text of these, or one written out in the bytes.
    pub(crate) fn text(&mut self, options: &[&str]) -> String {
        match self.below(options.len() + 1).checked_sub(1) {
            Some(at) => options[at].to_owned(),
            None => {
                let length = self.below(8).min(self.0.len());
                let (text, rest) = self.0.split_at(length);
                self.0 = rest;
                String::from_utf8_lossy(text).into_owned()
            }
        }
    }

    /// Up to `max` values.
    pub(crate) fn some<T>(&mut self, max: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(max + 1)).map(|_| make(self)).collect()
    }
}
