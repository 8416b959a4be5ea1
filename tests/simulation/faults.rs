//! What can be broken on purpose, so that the promises are seen to catch it.
//!
//! Nothing of this is in a program: the faults sit between the simulated cluster and the control plane, on the way
//! between it and its proxies, and among its tasks. A change that the index forgets to announce, one that the publisher
//! drops and one that a stream forgets all look the same to a proxy: a message that never comes, while whoever asks
//! anew is told the truth.
//!
//! Messages are tampered with whole and by the rules of the connection: what the proxy does not get, its window gets
//! back, so that nobody notices but by what is said.

use std::collections::HashMap;
use std::io;

use hauberk_resources::{Kind, ResourceEvent};
use rand::{Rng, rngs::SmallRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::Mutex;

/// How far the control plane may be ahead of a reader whose messages are tampered with: whole messages are held, so
/// more than any of them, and HTTP/2's usual value (RFC 9113 section 6.9.2), in bytes a stream.
pub(crate) const WINDOW_BYTES: u32 = 65_535;

/// What is wrong in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The control plane hears of objects of that kind when it lists them, and not when they change.
    Deaf(Kind),
    /// One event in eight is dropped on its way to the index.
    DropsEvents,
    /// One message in four never reaches its proxy.
    DropsMessages,
    /// One message in four is the one before it on its stream once more, instead of the new one.
    RepeatsMessages,
    /// Before one message in four comes one in which nothing is said.
    SaysNothing,
    /// No connection lasts longer than 30 seconds, whatever the weather.
    Cuts,
    /// A task of the control plane does not end when it should.
    Lingers,
    /// A task of the control plane panics.
    Panics,
}

impl Fault {
    /// Whether what the control plane says is changed on the way.
    pub(crate) fn tampers(self) -> bool {
        match self {
            Self::DropsMessages | Self::RepeatsMessages | Self::SaysNothing => true,
            Self::Deaf(_) | Self::DropsEvents | Self::Cuts | Self::Lingers | Self::Panics => false,
        }
    }

    /// Whether the control plane is not told of this event.
    pub(crate) fn keeps_from(self, event: &ResourceEvent, rng: &mut SmallRng) -> bool {
        match (self, event) {
            // What a listing says is heard of.
            (_, ResourceEvent::Relisted { .. }) => false,
            (Self::Deaf(kind), ResourceEvent::Applied(resource)) => resource.kind() == kind,
            (Self::Deaf(kind), ResourceEvent::Deleted(reference)) => reference.kind == kind,
            (Self::DropsEvents, _) => rng.random_bool(1.0 / 8.0),
            _ => false,
        }
    }

    /// What arrives instead of `message`, prefix included, when `last` was the one before it.
    fn instead(self, message: &[u8], last: &[u8], rng: &mut SmallRng) -> Vec<u8> {
        if !rng.random_bool(0.25) {
            return message.to_vec();
        }
        match self {
            Self::DropsMessages => Vec::new(),
            // A longer one might not fit into the window; losing this one is as bad.
            Self::RepeatsMessages if last.len() > message.len() => Vec::new(),
            Self::RepeatsMessages => last.to_vec(),
            Self::SaysNothing => [&[0; PREFIX_BYTES], message].concat(),
            Self::Deaf(_) | Self::DropsEvents | Self::Cuts | Self::Lingers | Self::Panics => {
                message.to_vec()
            }
        }
    }
}

/// Of a gRPC message: whether it is compressed, and its length in four bytes.
const PREFIX_BYTES: usize = 5;

/// What HTTP/2 connections begin with (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

/// A frame's type and its flag for the end of a stream (RFC 9113 sections 6.1 and 6.9).
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;

/// Longest payload that everybody takes (RFC 9113 section 4.2).
const PAYLOAD_BYTES_MAX: usize = 16_384;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        from.read_exact(&mut payload).await?;
        Ok(Self { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).expect("frames are short").to_be_bytes();
        let head = [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes()].concat();
        to.write_all(&[&head, &self.payload[..]].concat()).await
    }
}

/// What passes on one stream.
#[derive(Default)]
struct Stream {
    /// The beginning of a message.
    partial: Vec<u8>,
    /// The last whole one, as it should have arrived.
    last: Vec<u8>,
}

impl Stream {
    fn next_message(&mut self) -> Option<Vec<u8>> {
        let prefix = self.partial.first_chunk::<PREFIX_BYTES>()?;
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        let end = PREFIX_BYTES + length;
        (self.partial.len() >= end).then(|| self.partial.drain(..end).collect())
    }
}

/// Carries a connection between a proxy and the control plane until either is gone, with `fault` in what the control
/// plane says.
pub(crate) async fn tamper(
    proxy: DuplexStream,
    control: DuplexStream,
    fault: Fault,
    mut rng: SmallRng,
) -> io::Result<()> {
    let (mut from_proxy, mut to_proxy) = tokio::io::split(proxy);
    let (mut from_control, to_control) = tokio::io::split(control);
    let to_control = Mutex::new(to_control);
    let questions = async {
        let mut preface = [0; PREFACE_BYTES];
        from_proxy.read_exact(&mut preface).await?;
        to_control.lock().await.write_all(&preface).await?;
        loop {
            let frame = Frame::read(&mut from_proxy).await?;
            frame.write(&mut *to_control.lock().await).await?;
        }
    };
    let answers = async {
        let mut streams: HashMap<u32, Stream> = HashMap::new();
        loop {
            let frame = Frame::read(&mut from_control).await?;
            if frame.kind != DATA {
                frame.write(&mut to_proxy).await?;
                continue;
            }
            let stream = streams.entry(frame.stream).or_default();
            stream.partial.extend_from_slice(&frame.payload);
            let (mut arriving, mut kept_back) = (Vec::new(), 0);
            while let Some(message) = stream.next_message() {
                let instead = fault.instead(&message, &stream.last, &mut rng);
                kept_back += message.len().saturating_sub(instead.len());
                arriving.extend(instead);
                stream.last = message;
            }
            for payload in arriving.chunks(PAYLOAD_BYTES_MAX) {
                let payload = payload.to_vec();
                let part = Frame { kind: DATA, flags: 0, stream: frame.stream, payload };
                part.write(&mut to_proxy).await?;
            }
            if frame.flags & END_STREAM != 0 {
                Frame { payload: Vec::new(), ..frame }.write(&mut to_proxy).await?;
            }
            if kept_back > 0 {
                let payload = u32::try_from(kept_back).expect("less than a window").to_be_bytes();
                for stream in [0, frame.stream] {
                    let payload = payload.to_vec();
                    let update = Frame { kind: WINDOW_UPDATE, flags: 0, stream, payload };
                    update.write(&mut *to_control.lock().await).await?;
                }
            }
        }
    };
    tokio::select! {
        ended = questions => ended,
        ended = answers => ended,
    }
}
