//! The server name in a TLS ClientHello.

use hauberk_proxy::tls::client_hello::{Hello, parse};

/// As far as beginnings are tried one by one.
const ENDS_MAX: usize = 300;

pub(crate) fn check(data: &[u8]) {
    crate::assert_stable(data, ENDS_MAX, parse, |hello| *hello == Hello::Partial);
    let hello = parse(data);
    match &hello {
        Hello::Partial => assert!(data.len() < 3 * 32 * 1024 * 6, "it waits without end"),
        Hello::NotTls => {}
        Hello::Tls { sni } => {
            let name = sni.as_deref().unwrap_or("a");
            assert!((1..=253).contains(&name.len()) && !name.ends_with('.'), "{name:?}");
            assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name:?}");
            survives_fragmentation(data, &hello);
        }
    }
    agrees_with_rustls(data, &hello);
}

/// RFC 8446 section 5.1: a message may be split over records anyhow.
fn survives_fragmentation(data: &[u8], hello: &Hello) {
    let message = message(data);
    for size in [1, 5, 251] {
        let mut records = Vec::new();
        for fragment in message.chunks(size) {
            records.extend([22, 3, 1, 0, u8::try_from(fragment.len()).expect("at most 251")]);
            records.extend(fragment);
        }
        assert_eq!(parse(&records), *hello, "in fragments of {size}");
    }
}

/// The content of all whole records, and what is there of the last.
fn message(mut data: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [22, 3, _, high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        message.extend(&rest[..length]);
        data = &rest[length..];
    }
    message
}

/// The lower byte of the version in the message (RFC 8446 section 4.1.2).
fn legacy_version(data: &[u8]) -> u8 {
    message(data).get(5).copied().unwrap_or(u8::MAX)
}

/// What rustls reads as a hello is one, with the same name.
fn agrees_with_rustls(data: &[u8], hello: &Hello) {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = data;
    while !rest.is_empty() {
        if !acceptor.read_tls(&mut rest).is_ok_and(|count| count > 0) {
            return;
        }
        if let Ok(Some(accepted)) = acceptor.accept() {
            if !(0..=3).contains(&legacy_version(data)) {
                return; // rustls takes versions that do not exist.
            }
            let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
            let name = name.map(|name| name.trim_end_matches('.').to_owned());
            assert_eq!(*hello, Hello::Tls { sni: name }, "rustls reads the left as the right");
            return;
        }
    }
}
