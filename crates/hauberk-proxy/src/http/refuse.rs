//! Answering every request of a connection with the same refusal.
//!
//! For connections that fail before there is a policy to serve them by, but after the client has shown that it
//! speaks HTTP: it gets the same answer as for any other failure instead of a closed connection.

use super::{
    Version,
    answer::{self, Manner},
    failure::Failure,
    headers,
    server::{self, Control},
};
use crate::{connection::Direction, io::Io, worker::Worker};
use std::{rc::Rc, time::Duration};

/// The client has sent its request already; what is left is to write an answer and to see the connection end.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers with `failure` until the connection has ended, and asks the client to end it.
pub async fn refuse(worker: &Rc<Worker>, io: Io, version: Version, failure: &Failure) {
    let informs = !worker.config.outbound.hide_informational_headers;
    let (status, text) = (answer::row(failure), failure.to_string());
    let control = Rc::new(Control::default());
    let closing = Rc::clone(&control);
    let answer = move |request: http::Request<_>| {
        let manner =
            Manner { grpc: headers::is_grpc(&request), version: request.version(), informs };
        let response = answer::made_up(status.status, status.code, &text, manner);
        closing.close();
        async move { Ok(response) }
    };
    let serving =
        server::serve(Rc::clone(worker), io, version, Direction::Outbound, control, answer);
    // A client that goes on sending is cut.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, serving).await;
}
