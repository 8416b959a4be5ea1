//! A message body as it comes from a peer, by either version of HTTP, and how it can fail.
//!
//! HTTP/1 connections are ours, HTTP/2 connections are h2's; everybody above sees one type.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};

use super::classify::Break;
use super::http1;
use super::leave::UnderWay;

/// A body on its way in.
#[derive(Debug)]
pub enum Incoming {
    /// Over HTTP/1.
    Http1(http1::Received),
    /// A stream of HTTP/2.
    Http2(Stream),
}

/// The receiving half of an HTTP/2 stream.
#[derive(Debug)]
pub struct Stream {
    stream: h2::RecvStream,
    data_ended: bool,
    /// Bytes to come, as far as the head has told; else [`UNKNOWN`].
    length: u64,
    held: Held,
}

/// No body is that long.
const UNKNOWN: u64 = u64::MAX;

/// What a stream is held with. Bodies are moved often, hence one place for what never comes together.
#[derive(Debug)]
enum Held {
    Nothing,
    /// A response: keeps the connection from counting as idle.
    Open {
        _open: Rc<()>,
    },
    /// A request: ends when it may not go on.
    UnderWay(UnderWay),
}

const _: () = assert!(size_of::<Held>() == 16 && size_of::<Stream>() <= 56);

/// Why a stream or the connection below it failed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// An HTTP/1 connection failed.
    #[error(transparent)]
    Http1(#[from] http1::Error),
    /// An HTTP/2 stream or connection failed.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The policy no longer allows the request.
    #[error("no longer authorized")]
    Withdrawn,
}

impl StreamError {
    /// What it says about the stream.
    pub fn how(&self) -> Break {
        match self {
            Self::Http1(_) => Break::Unclassified,
            Self::Withdrawn => Break::Withdrawn,
            Self::Http2(error) => match error.reason() {
                Some(reason) if error.is_reset() || error.is_go_away() => Break::reset(reason),
                _ => Break::Unclassified,
            },
        }
    }

    /// The code a stream that depends on the failed one is reset with.
    pub fn reason(&self) -> h2::Reason {
        match self {
            Self::Http1(_) => h2::Reason::INTERNAL_ERROR,
            Self::Withdrawn => h2::Reason::CANCEL,
            Self::Http2(error) => error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR),
        }
    }
}

impl Incoming {
    /// A stream, with the headers it came with; `open` is held until the body is dropped.
    pub fn stream(stream: h2::RecvStream, headers: &HeaderMap, open: Option<Rc<()>>) -> Self {
        // h2 holds the sender to the length, so here it is only a hint.
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let length = length.and_then(|text| text.parse().ok()).unwrap_or(UNKNOWN);
        let held = open.map_or(Held::Nothing, |open| Held::Open { _open: open });
        Self::Http2(Stream { stream, data_ended: false, length, held })
    }

    /// A request's body that has not ended breaks off when the request may not go on. A body of HTTP/1 ends with its
    /// connection.
    pub fn end_with(&mut self, under_way: &UnderWay) {
        match self {
            Self::Http2(stream) if !stream.stream.is_end_stream() => {
                stream.held = Held::UnderWay(under_way.also());
            }
            Self::Http1(_) | Self::Http2(_) => {}
        }
    }

    /// Whether it may not go on; if it may, the context is woken when it may not.
    pub fn poll_withdrawn(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Http2(Stream { held: Held::UnderWay(under_way), .. }) => {
                under_way.poll_withdrawn(cx)
            }
            Self::Http1(_) | Self::Http2(_) => Poll::Pending,
        }
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match self.get_mut() {
            Self::Http1(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?)))
            }
            Self::Http2(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(stream) => stream.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(Stream { length: UNKNOWN, .. }) => SizeHint::default(),
            Self::Http2(stream) => SizeHint::with_exact(stream.length),
        }
    }
}

impl Stream {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        if let Held::UnderWay(under_way) = &mut self.held
            && under_way.poll_withdrawn(cx).is_ready()
        {
            return Poll::Ready(Some(Err(StreamError::Withdrawn)));
        }
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // It fails only when more is released than was received.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if self.length != UNKNOWN {
                        self.length = self.length.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(ended_by(error)),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(ended_by(error)),
        }
    }
}

/// A reset without an error asks to stop, and is not a failure (RFC 9113 section 8.1).
fn ended_by(error: h2::Error) -> Option<Result<Frame<Bytes>, StreamError>> {
    let is_end = error.reason() == Some(h2::Reason::NO_ERROR);
    (!is_end).then(|| Err(error.into()))
}
