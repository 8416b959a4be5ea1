//! Calls to the control plane, counted: `control_request_total`, `control_response_total`,
//! `control_response_latency_ms`.
//!
//! A call counts as answered when its stream has ended; a watch does so after minutes or hours.

use crate::{
    http::classify::{Break, Class, Pending},
    telemetry::{
        http::{Calls, Series},
        labels::Labels,
    },
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::time::Instant;
use tonic::{Status, body::Body, transport};
use tower::Service;

/// A connection to a service of the control plane whose calls are counted.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: transport::Channel,
    calls: Calls,
    labels: Labels,
}

impl Channel {
    /// Counts the calls of `inner` under `labels`.
    pub(super) fn new(inner: transport::Channel, calls: Calls, labels: Labels) -> Self {
        Self { inner, calls, labels }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Counted>;
    type Error = transport::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let began = Instant::now();
        let series = self.calls.series(self.labels.clone());
        series.request();
        let answer = self.inner.call(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(response.map_with_head(|status, headers, body| {
                    let pending = Pending::new(true, status, headers);
                    Counted { body, call: Some(Call { series, began, status, pending }) }
                })),
                Err(error) => {
                    series.response(None, Class::Broken(Break::Unclassified), began.elapsed());
                    Err(error)
                }
            }
        })
    }
}

/// [`Response::map`] for a body that depends on the head.
trait MapWithHead<B> {
    fn map_with_head<C>(self, map: impl FnOnce(StatusCode, &HeaderMap, B) -> C) -> Response<C>;
}

impl<B> MapWithHead<B> for Response<B> {
    fn map_with_head<C>(self, map: impl FnOnce(StatusCode, &HeaderMap, B) -> C) -> Response<C> {
        let (parts, body) = self.into_parts();
        let body = map(parts.status, &parts.headers, body);
        Response::from_parts(parts, body)
    }
}

/// A response body whose end is counted, also when it is dropped before.
#[derive(Debug)]
pub struct Counted {
    body: Body,
    call: Option<Call>,
}

#[derive(Debug)]
struct Call {
    series: Series,
    began: Instant,
    status: StatusCode,
    pending: Pending,
}

impl Counted {
    fn end(&mut self, class: impl FnOnce(Pending) -> Class) {
        if let Some(Call { series, began, status, pending }) = self.call.take() {
            series.response(Some(status), class(pending), began.elapsed());
        }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.end(|pending| pending.end(Some(trailers)));
                }
            }
            Some(Err(_)) => self.end(|_| Class::Broken(Break::Unclassified)),
            None => self.end(|pending| pending.end(None)),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.end(|pending| pending.end(None));
    }
}
