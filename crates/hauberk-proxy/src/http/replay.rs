//! A request body that can be read again, within a bound.
//!
//! Made by the outbound request path only for requests that may be retried. What one attempt reads
//! is kept; the next attempt reads it again and goes on where the last one stopped. Data are not
//! copied: kept are references to the buffers they came in. A body that grows beyond the bound
//! goes on to its attempt, is not kept any more, and cannot be repeated.
//!
//! Only the newest [`Reader`] reads. An older one, which a connection may still hold for a moment,
//! ends in an error and is woken for that, so that its stream is reset instead of looking complete.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::incoming::Incoming;

/// A body that is kept while it is read.
#[derive(Debug)]
pub struct Replay<B = Incoming> {
    inner: Rc<RefCell<Inner<B>>>,
}

/// One reading of it.
#[derive(Debug)]
pub struct Reader<B = Incoming> {
    inner: Rc<RefCell<Inner<B>>>,
    attempt: u32,
    next: usize,
    gave_trailers: bool,
}

#[derive(Debug)]
struct Inner<B> {
    source: B,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    bytes_max: usize,
    ended: bool,
    lost: bool,
    attempt: u32,
    waiting: Option<Waker>,
}

/// Why a reading broke off.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadError<E> {
    /// The sender failed.
    Sender(E),
    /// Another reading has begun.
    Superseded,
}

/// One frame of a reading.
pub type Read<E> = Result<Frame<Bytes>, ReadError<E>>;

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    /// Keeps up to `bytes_max` of `source`; gives it back if it says that it is longer.
    pub fn new(source: B, bytes_max: usize) -> Result<Self, B> {
        if source.size_hint().lower() > bytes_max as u64 {
            return Err(source);
        }
        let inner = Inner {
            source,
            kept: Vec::new(),
            trailers: None,
            bytes: 0,
            bytes_max,
            ended: false,
            lost: false,
            attempt: 0,
            waiting: None,
        };
        Ok(Self { inner: Rc::new(RefCell::new(inner)) })
    }

    /// Begins a reading from the start; earlier ones end.
    pub fn reader(&self) -> Reader<B> {
        let mut inner = self.inner.borrow_mut();
        inner.attempt += 1;
        if let Some(superseded) = inner.waiting.take() {
            superseded.wake();
        }
        let attempt = inner.attempt;
        Reader { inner: Rc::clone(&self.inner), attempt, next: 0, gave_trailers: false }
    }

    /// Whether everything read so far can be read again.
    pub fn is_repeatable(&self) -> bool {
        !self.inner.borrow().lost
    }

    /// Whether the whole body has been read.
    pub fn has_ended(&self) -> bool {
        self.inner.borrow().ended
    }
}

impl<B: Body<Data = Bytes> + Unpin> Reader<B> {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Read<B::Error>>> {
        let inner = &mut *self.inner.borrow_mut();
        if self.attempt != inner.attempt {
            return Poll::Ready(Some(Err(ReadError::Superseded)));
        }
        if let Some(data) = inner.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if inner.ended {
            let trailers = inner.trailers.clone().filter(|_| !self.gave_trailers);
            self.gave_trailers = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = Pin::new(&mut inner.source).poll_frame(cx);
        if polled.is_pending() {
            inner.waiting = Some(cx.waker().clone());
        }
        let frame = match ready!(polled) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(ReadError::Sender(error)))),
            None => {
                inner.ended = true;
                return Poll::Ready(None);
            }
        };
        if let Some(data) = frame.data_ref() {
            inner.keep(data);
            self.next = inner.kept.len();
        } else if let Some(trailers) = frame.trailers_ref() {
            inner.trailers = Some(trailers.clone());
            self.gave_trailers = true;
            inner.ended = true;
        }
        inner.ended |= inner.source.is_end_stream();
        Poll::Ready(Some(Ok(frame)))
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        let inner = self.inner.borrow();
        let is_read =
            self.next == inner.kept.len() && (inner.ended || inner.source.is_end_stream());
        is_read && (inner.trailers.is_none() || self.gave_trailers)
    }

    /// What is left.
    pub fn size_hint(&self) -> SizeHint {
        let inner = self.inner.borrow();
        let again: usize = inner.kept.iter().skip(self.next).map(Bytes::len).sum();
        let source = inner.source.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = source.upper() {
            hint.set_upper(upper + again as u64);
        }
        hint.set_lower(source.lower() + again as u64);
        hint
    }
}

impl<B> Inner<B> {
    fn keep(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(data.len());
        if self.bytes > self.bytes_max {
            self.lost = true;
            self.kept = Vec::new();
        } else if !data.is_empty() {
            self.kept.push(data.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::{Frames, frames};
    use super::*;
    use futures::FutureExt;

    /// Everything a reader gives now, and whether it has ended.
    fn read(reader: &mut Reader<Frames>) -> (String, bool) {
        let mut text = String::new();
        loop {
            let frame = std::future::poll_fn(|cx| reader.poll_frame(cx)).now_or_never();
            match frame {
                Some(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
                    Err(_) => text.push_str("|trailers"),
                },
                Some(Some(Err(_))) => return (text + "|superseded", true),
                Some(None) => return (text, true),
                None => return (text, false),
            }
        }
    }

    #[test]
    fn gives_the_same_again() {
        let mut body = frames(&["ab", "cd"], true);
        body.left.push_back(Frame::trailers(HeaderMap::new()));
        let replay = Replay::new(body, 4).unwrap_or_else(|_| unreachable!());
        let mut first = replay.reader();
        assert_eq!(read(&mut first), ("abcd|trailers".to_owned(), true));
        assert!(replay.is_repeatable() && replay.has_ended() && first.is_end_stream());
        let mut second = replay.reader();
        assert_eq!(second.size_hint().lower(), 4);
        assert_eq!(read(&mut second), ("abcd|trailers".to_owned(), true));
        assert_eq!(read(&mut first), ("|superseded".to_owned(), true));
    }

    #[test]
    fn goes_on_where_the_last_attempt_stopped() {
        let replay =
            Replay::new(frames(&["ab", "cd", "ef"], false), 100).unwrap_or_else(|_| unreachable!());
        let mut first = replay.reader();
        let frame = std::future::poll_fn(|cx| first.poll_frame(cx)).now_or_never();
        assert!(frame.is_some());
        assert_eq!(read(&mut replay.reader()), ("abcdef".to_owned(), false));
        assert!(!replay.has_ended());
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        assert!(Replay::new(frames(&["abcde"], true), 4).is_err(), "known to be too long");
        let mut unknown = frames(&["ab"], true);
        unknown.left.push_back(Frame::data(Bytes::from_static(b"")));
        let replay = Replay::new(unknown, 4).unwrap_or_else(|_| unreachable!());
        let mut reader = replay.reader();
        replay.inner.borrow_mut().source.left.push_back(Frame::data(Bytes::from_static(b"cdef")));
        assert_eq!(read(&mut reader), ("abcdef".to_owned(), true));
        assert!(!replay.is_repeatable());
        assert_eq!(replay.inner.borrow().kept.len(), 0, "and its memory is given back");
    }
}
