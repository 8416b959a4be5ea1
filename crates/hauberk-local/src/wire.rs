//! Lines and file descriptors over a local socket.
//!
//! Both ends of the lab's socket use these: the command line blocks in them, the runtime calls them
//! when its socket is ready. A line is at most `LINE_BYTES_MAX` long; descriptors belong to the
//! line they came with.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A whole lab's manifests fit many times over.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Standard input, output and error.
const DESCRIPTORS_MAX: usize = 3;

/// A line that is being received.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Incoming {
    /// Receives once; true when the line is complete.
    ///
    /// # Errors
    /// `WouldBlock` from a socket that does not block; `UnexpectedEof` when the other side has gone.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<bool> {
        let mut buffer = vec![0; 64 * 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received =
            rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&buffer[..received.bytes]);
        if self.bytes.len() > LINE_BYTES_MAX {
            return Err(io::Error::other("the line is too long"));
        }
        Ok(self.bytes.contains(&b'\n'))
    }

    /// The line's meaning, and what came after it.
    ///
    /// # Errors
    /// When it is not the JSON that was expected.
    pub fn parse<T: DeserializeOwned>(self) -> io::Result<(T, Vec<OwnedFd>, Vec<u8>)> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n').unwrap_or(self.bytes.len());
        let (line, rest) = self.bytes.split_at(end);
        let value = serde_json::from_slice(line)?;
        Ok((value, self.descriptors, rest.get(1..).unwrap_or_default().to_vec()))
    }
}

/// A line that is being sent.
#[derive(Debug)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// A value as a line.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn new(value: &impl Serialize) -> io::Result<Self> {
        let mut bytes = serde_json::to_vec(value)?;
        bytes.push(b'\n');
        Ok(Self { bytes, sent: 0 })
    }

    /// Sends once, the descriptors with the first byte; true when all is sent.
    ///
    /// # Errors
    /// `WouldBlock` from a socket that does not block.
    pub fn send(&mut self, socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if self.sent == 0 && !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let slices = [IoSlice::new(&self.bytes[self.sent..])];
        self.sent += rustix::net::sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL)?;
        Ok(self.sent == self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_line_arrives_with_its_descriptors_and_what_follows() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut outgoing = Outgoing::new(&vec!["x".repeat(100_000)]).unwrap();
        let sender = std::thread::spawn(move || {
            while !outgoing.send(&here, &[writer.as_fd()]).unwrap() {}
            (&here).write_all(b"rest").unwrap();
        });
        let mut incoming = Incoming::default();
        while !incoming.receive(&there).unwrap() {}
        let (value, descriptors, mut rest): (Vec<String>, _, _) = incoming.parse().unwrap();
        sender.join().unwrap();
        there.read_to_end(&mut rest).unwrap();
        assert_eq!((value[0].len(), rest.as_slice()), (100_000, &b"rest"[..]));
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        std::fs::File::from(descriptor).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }
}
