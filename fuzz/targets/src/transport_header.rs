//! The header with which one proxy tells another where bytes should go.

use hauberk_proxy::transport_header::{Decoded, decode};

/// Longer than every header that is accepted.
const ENDS_MAX: usize = 300;

pub(crate) fn check(data: &[u8]) {
    crate::assert_stable(data, ENDS_MAX, decode, |decoded| *decoded == Ok(Decoded::Partial));
    match decode(data) {
        Err(_) => {}
        Ok(Decoded::Partial) => assert!(data.len() < 23 + 4 + 4096, "it waits without end"),
        Ok(Decoded::Complete(header, length)) => {
            assert!(length <= data.len());
            assert_ne!(header.port, 0);
            let written = header.encode();
            let expect = Ok(Decoded::Complete(header, written.len()));
            assert_eq!(decode(&written), expect);
        }
    }
}
