//! A request body of which copies are made while it is read.
//!
//! Made by the outbound request path where a route mirrors a request. Whoever sends the request
//! reads the [`Original`]; what it reads is also put before the readers of [`struct@Copy`]s, which wait for
//! it. Data are not copied: both hold references to the buffers they came in. A copy whose reader
//! lags behind by more than a bound breaks off; the original never waits for one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use hauberk_process::metrics::Distribution;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::incoming::Incoming;

/// Most bytes that wait for one copy's reader.
pub const LAG_BYTES_MAX: usize = 256 * 1024;

/// Who gets what is read.
#[derive(Debug, Default)]
pub struct Tee {
    copies: RefCell<Vec<Rc<RefCell<Queue>>>>,
}

/// The body itself.
#[derive(Debug)]
pub struct Original<B = Incoming> {
    source: B,
    tee: Option<Rc<Tee>>,
    frames: Option<Distribution>,
}

/// A copy of it.
#[derive(Debug)]
pub struct Copy {
    queue: Rc<RefCell<Queue>>,
    hint: SizeHint,
    given: u64,
}

/// The original ended early, or the copy was read too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the copy of the body broke off")]
pub struct BrokenOff;

#[derive(Debug, Default)]
struct Queue {
    data: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    end: Option<Result<(), BrokenOff>>,
    waiting: Option<Waker>,
}

impl Tee {
    /// A copy of a body of that size, of which nothing has been read yet.
    pub fn copy(&self, hint: SizeHint) -> Copy {
        let queue = Rc::new(RefCell::new(Queue::default()));
        self.copies.borrow_mut().push(Rc::clone(&queue));
        Copy { queue, hint, given: 0 }
    }

    fn give<E>(&self, frame: &Result<Frame<Bytes>, E>) {
        for copy in self.copies.borrow().iter() {
            // A copy that nobody reads any more needs nothing.
            if Rc::strong_count(copy) > 1 {
                copy.borrow_mut().take(frame);
            }
        }
    }

    fn end(&self, end: Result<(), BrokenOff>) {
        for copy in self.copies.take() {
            copy.borrow_mut().finish(end);
        }
    }
}

impl Queue {
    fn take<E>(&mut self, frame: &Result<Frame<Bytes>, E>) {
        let Ok(frame) = frame else { return self.finish(Err(BrokenOff)) };
        if self.end.is_some() {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            if self.bytes > LAG_BYTES_MAX {
                return self.finish(Err(BrokenOff));
            }
            self.data.push_back(data.clone());
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        self.wake();
    }

    fn finish(&mut self, end: Result<(), BrokenOff>) {
        if self.end.is_none() {
            self.end = Some(end);
            if end.is_err() {
                self.data = VecDeque::new();
                self.trailers = None;
            }
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

impl<B> Original<B> {
    /// `source`, with copies if there are any.
    pub fn new(source: B, tee: Option<Rc<Tee>>) -> Self {
        Self { source, tee, frames: None }
    }

    /// The same body, whose pieces are counted.
    pub fn counted(mut self, frames: Option<&Distribution>) -> Self {
        self.frames = frames.cloned();
        self
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Original<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let original = self.get_mut();
        let frame = ready!(Pin::new(&mut original.source).poll_frame(cx));
        if let (Some(frames), Some(Ok(frame))) = (&original.frames, &frame)
            && let Some(data) = frame.data_ref()
        {
            frames.observe(data.len() as f64);
        }
        if let Some(tee) = &original.tee {
            if let Some(frame) = &frame {
                tee.give(frame);
            }
            // Nobody asks again a body that has said that it is over.
            if frame.is_none() || original.source.is_end_stream() {
                tee.end(Ok(()));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl<B> Drop for Original<B> {
    fn drop(&mut self) {
        if let Some(tee) = &self.tee {
            tee.end(Err(BrokenOff));
        }
    }
}

impl Body for Copy {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let copy = self.get_mut();
        let mut queue = copy.queue.borrow_mut();
        if let Some(data) = queue.data.pop_front() {
            queue.bytes -= data.len();
            copy.given += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match queue.end {
            Some(Ok(())) => Poll::Ready(queue.trailers.take().map(|all| Ok(Frame::trailers(all)))),
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
            None => {
                queue.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.queue.borrow();
        queue.end == Some(Ok(())) && queue.data.is_empty() && queue.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        if let Some(upper) = self.hint.upper() {
            hint.set_upper(upper.saturating_sub(self.given));
        }
        hint.set_lower(self.hint.lower().saturating_sub(self.given));
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::frames;
    use super::*;
    use futures::FutureExt;

    /// Everything a body gives now, and how it goes on.
    fn read<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> String {
        let mut text = String::new();
        loop {
            let next = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
            match next.now_or_never() {
                Some(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
                    Err(_) => text.push_str("|trailers"),
                },
                Some(Some(Err(_))) => return text + "|broken",
                Some(None) => return text + "|end",
                None => return text + "|more",
            }
        }
    }

    #[test]
    fn copies_get_what_the_original_gives() {
        let mut source = frames(&[b"ab", b"cd"], true);
        source.left.push_back(Frame::trailers(HeaderMap::new()));
        let tee = Rc::new(Tee::default());
        let mut copies = [tee.copy(SizeHint::with_exact(4)), tee.copy(SizeHint::default())];
        let mut original = Original::new(source, Some(tee));
        assert_eq!(read(&mut copies[0]), "|more");
        assert_eq!(read(&mut original), "abcd|trailers|end");
        for copy in &mut copies {
            assert_eq!(read(copy), "abcd|trailers|end");
            assert!(copy.is_end_stream());
        }
        assert_eq!(copies[0].size_hint().exact(), Some(0));
    }

    #[test]
    fn a_copy_breaks_off_with_the_original() {
        let tee = Rc::new(Tee::default());
        let mut copy = tee.copy(SizeHint::default());
        let mut original = Original::new(frames(&[b"ab"], false), Some(tee));
        assert_eq!(read(&mut original), "ab|more");
        assert_eq!(read(&mut copy), "ab|more");
        drop(original);
        assert_eq!(read(&mut copy), "|broken");
    }

    #[test]
    fn a_copy_that_lags_too_far_breaks_off_alone() {
        static PIECE: [u8; LAG_BYTES_MAX / 2] = [b'x'; LAG_BYTES_MAX / 2];
        let tee = Rc::new(Tee::default());
        let mut copies = [tee.copy(SizeHint::default()), tee.copy(SizeHint::default())];
        let mut original = Original::new(frames(&[&PIECE, &PIECE], false), Some(tee));
        read(&mut original);
        assert_eq!(read(&mut copies[0]).len(), LAG_BYTES_MAX + "|more".len());
        original.source = frames(&[b"y"], true);
        assert_eq!(read(&mut original), "y|end");
        assert_eq!(read(&mut copies[0]), "y|end");
        assert_eq!(read(&mut copies[1]), "|broken");
    }

    #[test]
    fn nothing_is_kept_for_a_copy_that_is_gone() {
        let tee = Rc::new(Tee::default());
        drop(tee.copy(SizeHint::default()));
        let mut original = Original::new(frames(&[b"ab"], false), Some(Rc::clone(&tee)));
        assert_eq!(read(&mut original), "ab|more");
        assert!(tee.copies.borrow()[0].borrow().data.is_empty());
    }
}
