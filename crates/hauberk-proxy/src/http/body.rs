//! Message bodies as one closed enum; nothing is boxed per frame and nothing is buffered.
//!
//! Requests travel as [`Body::Incoming`]. Responses travel as [`Body::Observed`], which tells an
//! [`End`] what happens on the way: the first frame (load estimate), the end with its trailers
//! (classification, metrics, breaker) or the break. The end is told exactly once, also when the
//! body is dropped early because the client went away.
//!
//! A response that has a deadline breaks off when it comes.
//!
//! A gRPC response that breaks off in the middle ends in trailers with a code instead of a reset,
//! so that clients see a status (linkerd2-proxy v2 does the same).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::classify::{Break, Class};
use super::client::broken;
use super::exchange::End;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender failed. hyper looks among the sources of an error for the code to reset a stream
    /// with, so this one is kept.
    #[error("the sender of the body failed")]
    Sender(#[source] hyper::Error),
    /// The deadline of the response came.
    #[error("response deadline reached")]
    Timeout,
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
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
    /// A response body whose end matters to somebody. Boxed, since messages are moved often.
    Observed(Box<Observed>),
}

/// A response body with what waits for its end.
#[derive(Debug)]
pub struct Observed {
    inner: Incoming,
    end: Option<End>,
    seen_frame: bool,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Body {
    /// A response body that tells `end` how it went, and breaks off at `deadline`. A body that is
    /// empty already has ended.
    pub fn observed(inner: Incoming, end: End, deadline: Option<Instant>) -> Self {
        if http_body::Body::is_end_stream(&inner) {
            end.finish(None);
            return Body::Empty;
        }
        let deadline = deadline.map(|at| Box::pin(sleep_until(at)));
        Body::Observed(Box::new(Observed { inner, end: Some(end), seen_frame: false, deadline }))
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
            Body::Observed(observed) => observed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Incoming(incoming) => incoming.is_end_stream(),
            Body::Observed(observed) => observed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Incoming(incoming) => incoming.size_hint(),
            Body::Observed(observed) => observed.inner.size_hint(),
        }
    }
}

impl Observed {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = http_body::Body::poll_frame(Pin::new(&mut self.inner), cx);
        if polled.is_pending()
            && let Some(deadline) = &mut self.deadline
            && self.end.is_some()
        {
            ready!(deadline.as_mut().poll(cx));
            return Poll::Ready(Some(self.break_off(Break::Timeout, BodyError::Timeout)));
        }
        let polled = ready!(polled);
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
                if let Some(trailers) = frame.trailers_ref() {
                    self.finish(Some(trailers));
                } else if http_body::Body::is_end_stream(&self.inner) {
                    self.finish(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let how = broken(&error);
                Poll::Ready(Some(self.break_off(how, error.into())))
            }
            None => {
                self.finish(None);
                Poll::Ready(None)
            }
        }
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
        Break::Timeout => ("4", "timeout"),
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
