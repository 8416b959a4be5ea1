//! One HTTP/1.1 request after the other over one blocking connection.
//!
//! Only what the benchmark's own server sends is understood: a status, a `content-length`, a
//! body. Anything else is an error, so that a wrong answer is never counted as a fast one.

use anyhow::{Context, bail, ensure};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Longest wait for bytes. A server that is silent for so long counts as failed.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Fields in a response head at most.
const FIELDS_MAX: usize = 32;

/// A connection that carries one request at a time.
pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

/// What is known of a response once its head was read.
struct Head {
    /// Bytes of the head itself.
    length: usize,
    body_length: u64,
}

impl Connection {
    /// Connects; every request will be a GET of `path`. Reads take at most `buffer_bytes`.
    pub(crate) fn open(
        address: SocketAddr,
        path: &str,
        buffer_bytes: usize,
    ) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, SILENCE_MAX)
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes();
        Ok(Self { stream, request, buffer: vec![0; buffer_bytes] })
    }

    /// Sends a request and reads the whole response. Returns the bytes of its body.
    ///
    /// `go_on` is asked after each read; when it says no, the rest is left unread, the bytes so
    /// far are returned, and the connection is of no further use.
    pub(crate) fn exchange(&mut self, mut go_on: impl FnMut() -> bool) -> anyhow::Result<u64> {
        self.stream.write_all(&self.request).context("cannot send the request")?;
        let mut filled = 0;
        let head = loop {
            ensure!(filled < self.buffer.len(), "the head of the response is too long");
            filled += self.read(filled)?;
            if let Some(head) = parse(&self.buffer[..filled])? {
                break head;
            }
        };
        let mut body_bytes = (filled - head.length) as u64;
        while body_bytes < head.body_length && go_on() {
            body_bytes += self.read(0)? as u64;
        }
        ensure!(body_bytes <= head.body_length, "bytes follow the response");
        Ok(body_bytes)
    }

    fn read(&mut self, from: usize) -> anyhow::Result<usize> {
        let count = self.stream.read(&mut self.buffer[from..]).context("cannot read")?;
        ensure!(count > 0, "the connection ended inside a response");
        Ok(count)
    }
}

/// The head at the beginning of these bytes, if it is complete.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<Head>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) =
        response.parse(bytes).context("the response is not HTTP/1")?
    else {
        return Ok(None);
    };
    if response.code != Some(200) {
        // Proxies tell the reason in the body.
        let body = String::from_utf8_lossy(&bytes[length..]);
        bail!("the server answered {}: {body}", response.code.unwrap_or_default());
    }
    let body_length =
        response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let body_length = body_length.context("the response has no content-length")?;
    let body_length = str::from_utf8(body_length.value)?.parse().context("bad content-length")?;
    Ok(Some(Head { length, body_length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_heads_and_refuses_what_cannot_be_counted() {
        let check = |text: &str| parse(text.as_bytes()).map(|head| head.map(|h| h.body_length));
        assert_eq!(check("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nab").unwrap(), Some(7));
        assert_eq!(check("HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert!(check("HTTP/1.1 503 No\r\ncontent-length: 7\r\n\r\n").is_err());
        assert!(check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }
}
