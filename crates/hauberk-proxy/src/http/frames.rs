//! For tests: a body whose frames are there from the start.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Frames that are here already; pending after them unless ended.
pub(super) struct Frames {
    pub(super) left: VecDeque<Frame<Bytes>>,
    is_ended: bool,
}

/// A body of these pieces.
pub(super) fn frames<T>(pieces: &[&'static T], is_ended: bool) -> Frames
where
    T: AsRef<[u8]> + ?Sized,
{
    let left = pieces.iter().map(|piece| Frame::data(Bytes::from_static((*piece).as_ref())));
    Frames { left: left.collect(), is_ended }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.left.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None if self.is_ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.left.iter().filter_map(|frame| frame.data_ref());
        let mut hint = SizeHint::new();
        hint.set_lower(data.map(|data| data.len() as u64).sum());
        hint
    }
}
