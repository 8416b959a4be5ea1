//! Sending a body over an HTTP/2 stream, within the window the peer grants.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;

use super::body::{Body, BodyError};

/// A body on its way out; ready when all of it has been given to the connection, or when it cannot be.
#[derive(Debug)]
pub struct Pipe {
    body: Body,
    stream: SendStream<Bytes>,
    /// Data that wait for the peer's window, and whether they are the last.
    waiting: Option<(Bytes, bool)>,
}

impl Pipe {
    /// Sends `body`, which has not ended yet, over `stream`.
    pub fn new(body: Body, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, waiting: None }
    }

    /// Gives up.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}

impl Future for Pipe {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let polled = this.poll_sent(cx);
        if let Poll::Ready(Err(error)) = &polled {
            tracing::debug!(%error, "HTTP/2 stream failed");
        }
        polled.map(|_| ())
    }
}

impl Pipe {
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Some((data, is_last)) = self.waiting.take() {
                if !data.is_empty() && self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => {
                            self.waiting = Some((data, is_last));
                            continue;
                        }
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                        // The stream has ended from the other side.
                        Poll::Ready(None) => return Poll::Ready(Ok(())),
                        Poll::Pending => {
                            if self.body.poll_withdrawn(cx).is_ready() {
                                // What waits will not be sent, so there is no place for a status either.
                                self.stream.send_reset(Reason::CANCEL);
                                return Poll::Ready(Ok(()));
                            }
                            self.waiting = Some((data, is_last));
                            // The peer may reset the stream instead of opening its window.
                            return self.stream.poll_reset(cx).map(|_| Ok(()));
                        }
                    }
                }
                self.stream.send_data(data, is_last)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match self.poll_body(cx)? {
                Poll::Ready(true) => return Poll::Ready(Ok(())),
                Poll::Ready(false) => {}
                Poll::Pending => return self.stream.poll_reset(cx).map(|_| Ok(())),
            }
        }
    }

    /// Takes the next frame of the body; true if it was the last and is sent.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<bool>, h2::Error> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return Ok(Poll::Pending),
        };
        match frame {
            None => {
                self.stream.send_data(Bytes::new(), true)?;
                Ok(Poll::Ready(true))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if !data.is_empty() {
                        // Asks for the least: what is reserved is kept from other streams. h2 asks for the rest when
                        // it has the data.
                        self.stream.reserve_capacity(1);
                    }
                    self.waiting = Some((data, self.body.is_end_stream()));
                    Ok(Poll::Ready(false))
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { return Ok(Poll::Ready(false)) };
                    self.stream.reserve_capacity(0);
                    self.stream.send_trailers(trailers)?;
                    Ok(Poll::Ready(true))
                }
            },
            Some(Err(error)) => {
                self.stream.send_reset(reason(&error));
                Ok(Poll::Ready(true))
            }
        }
    }
}

/// The code that says why a body broke off.
fn reason(error: &BodyError) -> Reason {
    match error {
        BodyError::Sender(error) => error.reason(),
        BodyError::Timeout(_) | BodyError::Superseded => Reason::INTERNAL_ERROR,
        BodyError::Withdrawn | BodyError::Copy(_) => Reason::CANCEL,
    }
}
