//! HTTP/1 messages as bytes on the wire, read so strictly that two readers cannot disagree.

use crate::world::{World, port};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
};

/// No head here is longer.
const HEAD_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A message, its body freed from its framing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// From the first line to the empty one.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Lines after a chunked body.
    pub(crate) trailers: String,
}

/// How a message without a length ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A request has no body.
    Request,
    /// A response goes on to the end of the connection.
    Response,
    /// A response without a body, whatever its head says.
    Bodyless,
}

impl Message {
    /// The next message; `None` at the end of the stream.
    ///
    /// # Errors
    /// When the stream breaks or ends within the message, or a chunk is malformed.
    pub(crate) fn read(from: &mut impl BufRead, kind: Kind) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let read = from.by_ref().take(HEAD_BYTES_MAX as u64).read_until(b'\n', &mut head)?;
            match read {
                0 if head.is_empty() => return Ok(None),
                0 => return Err(broken("the stream ends within a head")),
                _ if head.len() > HEAD_BYTES_MAX => return Err(broken("the head is too long")),
                _ => {}
            }
        }
        let mut message =
            Self { head: String::from_utf8_lossy(&head).into_owned(), ..Self::default() };
        message.read_body(from, kind)?;
        Ok(Some(message))
    }

    fn read_body(&mut self, from: &mut impl BufRead, kind: Kind) -> io::Result<()> {
        if kind == Kind::Bodyless {
            return Ok(());
        }
        if !self.header("transfer-encoding").is_empty() {
            loop {
                let mut line = String::new();
                from.read_line(&mut line)?;
                let size = line.strip_suffix("\r\n").ok_or_else(|| broken("no chunk"))?;
                let size = usize::from_str_radix(size, 16)
                    .map_err(|_| broken(&format!("chunk size {size:?}")))?;
                if size == 0 {
                    break;
                }
                let start = self.body.len();
                self.body.resize(start + size, 0);
                from.read_exact(&mut self.body[start..])?;
                let mut end = [0; 2];
                from.read_exact(&mut end)?;
                if end != *b"\r\n" {
                    return Err(broken("a chunk without its end"));
                }
            }
            loop {
                let mut line = String::new();
                from.read_line(&mut line)?;
                match line.as_str() {
                    "\r\n" => return Ok(()),
                    "" => return Err(broken("the stream ends within trailers")),
                    line => self.trailers += line,
                }
            }
        }
        if let [length, ..] = self.header("content-length").as_slice() {
            let length = length.parse().map_err(|_| broken("content-length"))?;
            self.body.resize(length, 0);
            from.read_exact(&mut self.body)?;
        } else if kind == Kind::Response {
            from.read_to_end(&mut self.body)?;
        }
        Ok(())
    }

    /// The values of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.split("\r\n").skip(1);
        let fields = lines.filter_map(|line| line.split_once(':'));
        let meant = fields.filter(|(field, _)| field.trim().eq_ignore_ascii_case(name));
        meant.map(|(_, value)| value.trim()).collect()
    }

    /// The code of a response.
    pub(crate) fn status(&self) -> u16 {
        let code = self.head.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("no status: {:?}", self.head))
    }

    /// Its body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Why two readers could disagree about it (RFC 9112), if they could.
    pub(crate) fn ambiguity(&self) -> Option<String> {
        let head = self.head.strip_suffix("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or_default();
        if first.contains(['\r', '\n', '\0', '\t']) || first.split(' ').count() < 3 {
            return Some(format!("first line {first:?}"));
        }
        for line in lines {
            let name = line.split(':').next().unwrap_or_default();
            let is_token =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if line.contains(['\r', '\n', '\0'])
                || !line.contains(':')
                || name.is_empty()
                || !name.bytes().all(is_token)
            {
                return Some(format!("line {line:?}"));
            }
        }
        let (length, encoding) = (self.header("content-length"), self.header("transfer-encoding"));
        if length.len() > 1 || encoding.len() > 1 || (length.len() + encoding.len() > 1) {
            return Some(format!("{length:?} beside {encoding:?}"));
        }
        if !length.iter().all(|length| length.bytes().all(|byte| byte.is_ascii_digit())) {
            return Some(format!("{length:?}"));
        }
        if encoding.iter().any(|encoding| !encoding.eq_ignore_ascii_case("chunked")) {
            return Some(format!("{encoding:?}"));
        }
        if self.header("host").len() > 1 {
            return Some(format!("hosts {:?}", self.header("host")));
        }
        None
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Requests that reached an application, whole, in their order.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Message>>>);

impl Seen {
    /// What has come since the last call.
    pub(crate) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, message: Message) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }
}

/// An application that answers what `answer` gives, word for word, and what it has seen. An answer
/// without length ends the connection.
pub(crate) fn application(
    world: &World,
    answer: impl Fn(&Message) -> String + Clone + Send + 'static,
) -> (u16, Seen) {
    let seen = Seen::default();
    let seeing = seen.clone();
    let port = world.serve(port(), move |mut socket| {
        let mut reader = BufReader::new(socket.try_clone().expect("clone a socket"));
        while let Ok(Some(request)) = Message::read(&mut reader, Kind::Request) {
            let text = answer(&request);
            seeing.push(request);
            if socket.write_all(text.as_bytes()).is_err() {
                return;
            }
            let is_final = |text: &str| text.contains("content-length") || text.contains("chunked");
            if !is_final(&text) {
                return;
            }
        }
    });
    (port, seen)
}

/// An application that answers `ok`.
pub(crate) fn simple(world: &World) -> (u16, Seen) {
    application(world, |_| "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned())
}

/// Sends bytes and gives what came back until the peer closed or reset, as text.
pub(crate) fn exchange(mut socket: TcpStream, bytes: &[u8]) -> String {
    // A peer that refuses may close before it has read everything.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&answer)),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends one request and reads one response, with the connection to go on with.
pub(crate) fn ask(socket: TcpStream, request: &str, kind: Kind) -> (Message, BufReader<TcpStream>) {
    let mut reader = BufReader::new(socket);
    reader.get_mut().write_all(request.as_bytes()).expect("send a request");
    let response = Message::read(&mut reader, kind).expect("a response");
    (response.expect("a response before the end"), reader)
}
