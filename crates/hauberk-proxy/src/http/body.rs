//! Message bodies as one closed enum; nothing is boxed per frame and nothing is buffered.
//!
//! Requests travel as [`Body::Counted`], or [`Body::Incoming`] if nothing is to come, as [`Body::Original`] where they are mirrored (their copies
//! as [`Body::Copy`]), or as [`Body::Tracked`] where a limit of time or a retry depends on how far
//! they have come. Responses travel as [`Body::Observed`], which tells an
//! [`End`] what happens on the way: the first frame (load estimate), the end with its trailers
//! (classification, metrics, breaker) or the break. The end is told exactly once, also when the
//! body is dropped early because the client went away.
//!
//! A response that has limits of time breaks off when one comes.
//!
//! A gRPC response that breaks off in the middle ends in trailers with a code instead of a reset,
//! so that clients see a status (linkerd2-proxy v2 does the same).

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hauberk_process::metrics::Distribution;
use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::classify::{Break, Class};
use super::exchange::{End, Upload};
use super::incoming::{Incoming, StreamError};
use super::leave::UnderWay;
use super::limits::{Limit, Progress, Timer};
use super::replay::{ReadError, Reader};
use super::tee::{BrokenOff, Copy, Original};

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender failed.
    #[error("the sender of the body failed")]
    Sender(#[source] StreamError),
    /// A limit of time came.
    #[error("{}", .0.text())]
    Timeout(Limit),
    /// The policy no longer allows the request.
    #[error("no longer authorized")]
    Withdrawn,
    /// The request is being sent again; this sending of it is over.
    #[error("another attempt has begun")]
    Superseded,
    /// The request that this is a copy of broke off, or the copy was too slow.
    #[error(transparent)]
    Copy(#[from] BrokenOff),
}

impl From<StreamError> for BodyError {
    fn from(error: StreamError) -> Self {
        BodyError::Sender(error)
    }
}

/// The body of a message on its way through the proxy.
#[derive(Debug, Default)]
pub enum Body {
    /// No body.
    #[default]
    Empty,
    /// Passed on as it comes.
    Incoming(Incoming),
    /// A request body whose pieces are counted. Boxed, since messages are moved often.
    Counted(Box<Counted>),
    /// A request body that is copied on the way. Boxed, since it is rare.
    Original(Box<Original>),
    /// A copy of a request body. Boxed, since it is rare.
    Copy(Box<Copy>),
    /// A request body whose progress matters to somebody. Boxed, since it is rare.
    Tracked(Box<Tracked>),
    /// A response body whose end matters to somebody. Boxed, since messages are moved often.
    Observed(Box<Observed>),
}

/// A request body whose pieces are counted on the way.
#[derive(Debug)]
pub struct Counted {
    inner: Incoming,
    frames: Distribution,
    upload: Option<Rc<Upload>>,
}

/// A request body that tells how far it has come.
#[derive(Debug)]
pub struct Tracked {
    /// Where it comes from.
    pub source: Source,
    /// Who is told.
    pub progress: Rc<Progress>,
}

/// Where a tracked request body comes from.
#[derive(Debug)]
pub enum Source {
    /// The client, directly.
    Original(Original),
    /// What is kept of it, and then the client.
    Replay(Reader<Original>),
}

/// Frames of a response that were read before it was decided what becomes of it.
pub type Held = VecDeque<Result<Frame<Bytes>, StreamError>>;

/// A response body with what waits for its end.
#[derive(Debug)]
pub struct Observed {
    held: Held,
    inner: Incoming,
    end: Option<End>,
    seen_frame: bool,
    timer: Option<Box<Timer>>,
}

impl Body {
    /// A request body whose pieces are counted in `frames`, if there are any to come. Gives what knows its end where
    /// `wants_end`; without it a body has ended already.
    pub fn counted(
        inner: Incoming,
        frames: Option<&Distribution>,
        wants_end: bool,
    ) -> (Self, Option<Rc<Upload>>) {
        match frames {
            Some(frames) if !http_body::Body::is_end_stream(&inner) => {
                let upload = wants_end.then(Rc::<Upload>::default);
                let frames = frames.clone();
                let counted = Counted { inner, frames, upload: upload.clone() };
                (Body::Counted(Box::new(counted)), upload)
            }
            _ => (Body::Incoming(inner), None),
        }
    }

    /// A response body that tells `end` how it went, and breaks off when `timer` says so. A body
    /// that is empty already has ended. `held` are frames that were read of it before.
    pub fn observed(inner: Incoming, held: Held, end: End, timer: Option<Timer>) -> Self {
        if held.is_empty() && http_body::Body::is_end_stream(&inner) {
            end.finish(None);
            return Body::Empty;
        }
        let timer = timer.map(Box::new);
        let end = Some(end);
        Body::Observed(Box::new(Observed { held, inner, end, seen_frame: false, timer }))
    }

    /// The response is over when `under_way` says so; no response that has ended is held by it.
    pub fn hold(&mut self, under_way: UnderWay) {
        if let Body::Observed(observed) = self
            && let Some(end) = &mut observed.end
        {
            end.under_way = Some(under_way);
        }
    }

    /// For whoever cannot take a frame now: whether the message may not go on, even so. A response's end is told then.
    pub fn poll_withdrawn(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Body::Incoming(incoming) => incoming.poll_withdrawn(cx),
            Body::Counted(counted) => counted.inner.poll_withdrawn(cx),
            Body::Observed(observed) => {
                ready!(observed.poll_withdrawn(cx));
                let _ = observed.break_off(Break::Withdrawn, BodyError::Withdrawn);
                Poll::Ready(())
            }
            // Those find out when they can be taken on.
            Body::Empty | Body::Original(_) | Body::Copy(_) | Body::Tracked(_) => Poll::Pending,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Body::Empty => Poll::Ready(None),
            Body::Incoming(incoming) => {
                Pin::new(incoming).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(Into::into)))
            }
            Body::Counted(counted) => counted.poll_frame(cx),
            Body::Original(original) => Pin::new(&mut **original)
                .poll_frame(cx)
                .map(|frame| frame.map(|f| f.map_err(Into::into))),
            Body::Copy(copy) => Pin::new(&mut **copy)
                .poll_frame(cx)
                .map(|frame| frame.map(|f| f.map_err(Into::into))),
            Body::Tracked(tracked) => tracked.poll_frame(cx),
            Body::Observed(observed) => observed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Incoming(incoming) => incoming.is_end_stream(),
            Body::Counted(counted) => counted.inner.is_end_stream(),
            Body::Original(original) => original.is_end_stream(),
            Body::Copy(copy) => copy.is_end_stream(),
            Body::Tracked(tracked) => tracked.source.is_end_stream(),
            Body::Observed(observed) => observed.held.is_empty() && observed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Incoming(incoming) => incoming.size_hint(),
            Body::Counted(counted) => counted.inner.size_hint(),
            Body::Original(original) => original.size_hint(),
            Body::Copy(copy) => copy.size_hint(),
            Body::Tracked(tracked) => match &tracked.source {
                Source::Original(original) => http_body::Body::size_hint(original),
                Source::Replay(reader) => reader.size_hint(),
            },
            Body::Observed(observed) => observed.size_hint(),
        }
    }
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Source::Original(original) => http_body::Body::is_end_stream(original),
            Source::Replay(reader) => reader.is_end_stream(),
        }
    }
}

impl Counted {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut self.inner), cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.frames.observe(data.len() as f64);
        }
        if let Some(upload) = &self.upload
            && (frame.is_none() || http_body::Body::is_end_stream(&self.inner))
        {
            upload.end();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }
}

impl Tracked {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.source {
            Source::Original(original) => {
                ready!(http_body::Body::poll_frame(Pin::new(original), cx))
                    .map(|frame| frame.map_err(BodyError::from))
            }
            Source::Replay(reader) => ready!(reader.poll_frame(cx)).map(|frame| {
                frame.map_err(|error| match error {
                    ReadError::Sender(error) => BodyError::Sender(error),
                    ReadError::Superseded => BodyError::Superseded,
                })
            }),
        };
        let now = Instant::now();
        self.progress.moved(now);
        if frame.is_none() || self.source.is_end_stream() {
            self.progress.sent(now);
        }
        Poll::Ready(frame)
    }
}

impl Observed {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(timer) = &mut self.timer
            && self.end.is_some()
            && let Poll::Ready(limit) = timer.poll(cx)
        {
            let error = BodyError::Timeout(limit);
            return Poll::Ready(Some(self.break_off(Break::Timeout(limit), error)));
        }
        if self.poll_withdrawn(cx).is_ready() {
            return Poll::Ready(Some(self.break_off(Break::Withdrawn, BodyError::Withdrawn)));
        }
        let polled = match self.held.pop_front() {
            Some(held) => Some(held),
            None => ready!(http_body::Body::poll_frame(Pin::new(&mut self.inner), cx)),
        };
        let Some(end) = &mut self.end else {
            // The end has been told; a broken gRPC stream has had its trailers.
            return Poll::Ready(polled.filter(Result::is_ok).map(|frame| Ok(frame?)));
        };
        match polled {
            Some(Ok(frame)) => {
                if !self.seen_frame {
                    self.seen_frame = true;
                    end.first_frame();
                }
                if let Some(timer) = &self.timer {
                    timer.moved();
                }
                if let Some(data) = frame.data_ref() {
                    end.piece(data.len());
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.finish(Some(trailers));
                } else if self.held.is_empty() && http_body::Body::is_end_stream(&self.inner) {
                    self.finish(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let how = error.how();
                Poll::Ready(Some(self.break_off(how, error.into())))
            }
            None => {
                self.finish(None);
                Poll::Ready(None)
            }
        }
    }

    /// Whether the request may not go on; if it may, the context is woken when it may not.
    fn poll_withdrawn(&mut self, cx: &Context<'_>) -> Poll<()> {
        let under_way = self.end.as_mut().and_then(|end| end.under_way.as_mut());
        under_way.map_or(Poll::Pending, |under_way| under_way.poll_withdrawn(cx))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = http_body::Body::size_hint(&self.inner);
        let held = self.held.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
        let held: u64 = held.map(|data| data.len() as u64).sum();
        if held > 0 {
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper + held);
            }
            hint.set_lower(hint.lower() + held);
        }
        hint
    }

    /// Ends the body early: gRPC by a status, anything else by an error.
    fn break_off(&mut self, how: Break, error: BodyError) -> Result<Frame<Bytes>, BodyError> {
        let Some(end) = self.end.take() else { return Err(error) };
        let is_grpc = end.is_grpc();
        end.broke(how);
        if is_grpc { Ok(status_trailers(how)) } else { Err(error) }
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(end) = self.end.take() {
            end.finish(trailers);
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end.abandon();
        }
    }
}

/// Trailers that end a broken gRPC response.
fn status_trailers(how: Break) -> Frame<Bytes> {
    let (code, message) = match how {
        Break::Timeout(limit) => ("4", limit.text()),
        Break::Withdrawn => ("7", "no longer authorized"),
        Break::Reset(h2::Reason::CANCEL) => ("1", "stream cancelled"),
        Break::Reset(h2::Reason::REFUSED_STREAM) => ("14", "stream refused"),
        Break::Reset(_) => ("13", "stream reset"),
        Break::Unclassified => ("14", "connection closed before the response ended"),
    };
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    Frame::trailers(trailers)
}

/// Classes are small enough to be passed by value.
const _: () = assert!(std::mem::size_of::<Class>() <= 8);
