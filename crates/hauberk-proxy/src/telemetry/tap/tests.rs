use super::*;
use crate::{connection::NoTls, http::classify::Verdict};
use futures::FutureExt;
use hauberk_model::tap::{TapMatch, TextMatch};
use http::Method;

fn tap(limit: u32, condition: TapMatch) -> Tap {
    Tap { limit, condition, with_headers: false }
}

fn everything() -> TapMatch {
    TapMatch::All(Vec::new())
}

fn endpoint() -> Endpoint {
    let mut endpoint = Endpoint::bare("10.0.0.2:8080".parse().unwrap());
    endpoint.labels = Labels::from([label("pod", "web-0")]);
    endpoint
}

fn begin(taps: &Taps, request: &Request<()>) -> Option<Box<Tapped>> {
    let between = Between {
        direction: Direction::Outbound,
        client: "10.0.0.1:5000".parse().unwrap(),
        tls: &Tls::None(NoTls::Loopback),
        route: &Meta::default("default"),
    };
    taps.begin(&between, &endpoint(), request)
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).header("host", "web").header("x-mine", "1").body(()).unwrap()
}

fn next(events: &mut Events) -> Option<TapEvent> {
    events.next().now_or_never().expect("nothing is under way")
}

#[test]
fn reports_the_life_of_a_request() {
    let taps = Taps::default();
    let mut events = taps.open(Tap { with_headers: true, ..tap(1, everything()) }).unwrap();
    let mut tapped = begin(&taps, &get("/a?secret=1")).expect("everything is wanted");
    tapped.respond(&Response::builder().status(404).header("x-his", "2").body(()).unwrap());
    tapped.count(3);
    tapped.count(4);
    tapped.end(Class::Http(Verdict::Success), None);

    let first = next(&mut events).unwrap();
    assert_eq!(first.exchange.direction, TapDirection::Outbound);
    assert_eq!(first.exchange.destination, endpoint().address);
    assert_eq!(first.exchange.destination_labels["pod"], "web-0".into());
    assert_eq!(first.exchange.source_labels["tls"], "loopback".into());
    assert_eq!(first.exchange.route_labels["route_name"], "default".into());
    let TapMoment::RequestInit { method, scheme, authority, path, headers } = first.moment else {
        panic!("{:?}", first.moment);
    };
    assert_eq!((method, &*scheme), (Method::GET, "http"));
    assert_eq!((&*authority, &*path), ("web", "/a"));
    assert_eq!(headers["x-mine"], "1");
    let second = next(&mut events).unwrap();
    assert_eq!(second.stream, first.stream);
    let TapMoment::ResponseInit { status, headers, .. } = second.moment else {
        panic!("{:?}", second.moment);
    };
    assert_eq!(status, 404);
    assert_eq!(headers["x-his"], "2");
    let last = next(&mut events).unwrap();
    let TapMoment::ResponseEnd { response_bytes: 7, end: None, .. } = last.moment else {
        panic!("{:?}", last.moment);
    };
    assert_eq!(next(&mut events), None, "the limit is reached");
    assert!(begin(&taps, &get("/")).is_none());
}

#[test]
fn reports_only_what_is_wanted() {
    let taps = Taps::default();
    assert!(begin(&taps, &get("/")).is_none(), "nobody watches");
    let path = TapMatch::Path(TextMatch::Prefix("/api".into()));
    let mut events = taps.open(tap(9, path)).unwrap();
    assert!(begin(&taps, &get("/other")).is_none());
    assert!(begin(&taps, &get("/api/x")).is_some());
    let TapMoment::RequestInit { headers, .. } = next(&mut events).unwrap().moment else {
        panic!("the first event is that of the request");
    };
    assert!(headers.is_empty(), "nobody asked for headers");
    drop(events);
    assert!(begin(&taps, &get("/api/x")).is_none(), "the watcher has gone");
}

#[test]
fn a_request_that_is_given_up_ends_too() {
    let taps = Taps::default();
    let mut events = taps.open(tap(2, everything())).unwrap();
    drop(begin(&taps, &get("/")));
    let reset = Class::Broken(Break::Reset(h2::Reason::REFUSED_STREAM));
    begin(&taps, &get("/")).unwrap().end(reset, None);
    let ends = [None, Some(TapEnd::Reset(7))];
    for expected in ends {
        next(&mut events).unwrap();
        let event = next(&mut events).unwrap();
        let TapMoment::ResponseEnd { end, .. } = event.moment else { panic!("{event:?}") };
        assert_eq!(end, expected);
    }
}

#[test]
fn what_a_slow_watcher_misses_is_counted() {
    let taps = Taps::default();
    let mut events = taps.open(tap(1000, everything())).unwrap();
    for _ in 0..EVENTS_MAX {
        drop(begin(&taps, &get("/")));
    }
    assert_eq!(taps.inner.dropped.get(), EVENTS_MAX as u64, "two events a request");
    assert!(next(&mut events).is_some());
}

#[test]
fn the_number_of_taps_is_bounded() {
    let taps = Taps::default();
    let mut open: Vec<_> =
        (0..TAPS_MAX).map(|_| taps.open(tap(1, everything())).unwrap()).collect();
    assert_eq!(taps.open(tap(1, everything())).unwrap_err(), TooMany);
    open.pop();
    assert!(taps.open(tap(1, everything())).is_ok());
    taps.close();
    assert!(open[0].next().now_or_never() == Some(None), "closed");
}
