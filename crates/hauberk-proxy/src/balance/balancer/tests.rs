use super::*;
use hauberk_model::failure_accrual::FailureAccrualKind;
use std::collections::BTreeMap;
use std::time::Duration;

const SEED: u64 = 0xba1a;
const MS: Duration = Duration::from_millis(1);

fn settings() -> Settings {
    Settings {
        load: PeakEwma::default(),
        penalty: None,
        queue: Queue { capacity: 3, failfast_timeout: 1000 * MS },
        accrual: None,
        connect_backoff: Backoff::new(100 * MS, 1000 * MS, 0.0).unwrap(),
    }
}

fn endpoints(ports: &[u16]) -> Endpoints {
    let by_address = ports.iter().map(|port| {
        let address = SocketAddr::from(([10, 0, 0, 1], *port));
        (address, Arc::new(Endpoint::bare(address)))
    });
    Endpoints { labels: Arc::default(), by_address: by_address.collect() }
}

fn balancer(settings: Settings, ports: &[u16]) -> Balancer<u16> {
    let balancer = Balancer::new(settings, SEED);
    balancer.update(&endpoints(ports), Instant::now(), |e| e.address.port());
    balancer
}

/// Requests one after the other, each taking what `duration` says of its endpoint.
async fn run(
    balancer: &Balancer<u16>,
    requests: usize,
    duration: impl Fn(u16) -> Duration,
) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let mut lease = balancer.acquire().await.unwrap();
        let port = *lease.endpoint();
        *counts.entry(port).or_default() += 1;
        tokio::time::advance(duration(port)).await;
        lease.responded(Instant::now());
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn equal_endpoints_share_equally() {
    let counts = run(&balancer(settings(), &[1, 2, 3, 4]), 4000, |_| MS).await;
    assert!(counts.values().all(|n| n.abs_diff(1000) < 250), "seed {SEED:#x}: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_gets_less() {
    let slow = |port| if port == 3 { 100 * MS } else { MS };
    let counts = run(&balancer(settings(), &[1, 2, 3]), 3000, slow).await;
    assert!(counts[&3] * 5 < counts[&1], "seed {SEED:#x}: {counts:?}");
    assert!(counts[&3] > 0, "it is tried again: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_count_as_load() {
    let balancer = balancer(settings(), &[1, 2]);
    let leases: Vec<_> = (0..10).map(|_| balancer.pick(Instant::now()).unwrap()).collect();
    let first = leases.iter().filter(|lease| *lease.endpoint() == 1).count();
    assert_eq!(first, 5, "seed {SEED:#x}");
}

#[tokio::test(start_paused = true)]
async fn a_removed_endpoint_gets_nothing_and_keeps_what_it_has() {
    let balancer = balancer(settings(), &[1, 2]);
    let held: Vec<_> = (0..4).map(|_| balancer.pick(Instant::now()).unwrap()).collect();
    let updated = balancer.update(&endpoints(&[2, 3]), Instant::now(), |e| e.address.port());
    assert_eq!(updated, Updated { added: 1, removed: 1 });
    let counts = run(&balancer, 400, |_| MS).await;
    assert!(!counts.contains_key(&1), "seed {SEED:#x}: {counts:?}");
    for lease in held {
        assert_eq!(lease.is_removed(), *lease.endpoint() == 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_endpoint_is_kept_and_a_changed_one_is_built_anew() {
    let balancer = balancer(settings(), &[1, 2]);
    let mut next = endpoints(&[1, 2]);
    for endpoint in next.by_address.values_mut().skip(1) {
        let mut changed = Endpoint::clone(endpoint);
        changed.weight += 1;
        *endpoint = Arc::new(changed);
    }
    let mut built = Vec::new();
    balancer.update(&next, Instant::now(), |e| {
        built.push(e.address.port());
        e.address.port()
    });
    assert_eq!(built, [2]);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_endpoint_is_left_alone_then_tried_by_one() {
    let balancer = balancer(settings(), &[1, 2]);
    let dead = loop {
        let lease = balancer.pick(Instant::now()).unwrap();
        if *lease.endpoint() == 1 {
            break lease;
        }
    };
    dead.unreachable(Instant::now());
    let counts = run(&balancer, 50, |_| MS).await;
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [2]);
    tokio::time::advance(100 * MS).await;
    let now = Instant::now();
    let leases: Vec<_> = (0..50).map(|_| balancer.pick(now).unwrap()).collect();
    let tries: Vec<_> = leases.iter().filter(|lease| *lease.endpoint() == 1).collect();
    assert_eq!(tries.len(), 1);
    tries[0].connected();
    assert!((0..50).any(|_| *balancer.pick(now).unwrap().endpoint() == 1));
}

#[tokio::test(start_paused = true)]
async fn waits_for_an_endpoint_that_comes() {
    let balancer = balancer(settings(), &[]);
    let waiting = balancer.acquire();
    let arriving = async {
        tokio::time::sleep(500 * MS).await;
        assert_eq!(balancer.waiting(), 1);
        balancer.update(&endpoints(&[7]), Instant::now(), |e| e.address.port());
    };
    let (lease, ()) = tokio::join!(waiting, arriving);
    assert_eq!(*lease.unwrap().endpoint(), 7);
    assert_eq!(balancer.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_end_of_a_back_off() {
    let balancer = balancer(settings(), &[1]);
    let start = Instant::now();
    balancer.pick(start).unwrap().unreachable(start);
    assert!(balancer.pick(start).is_none());
    assert!(balancer.acquire().await.is_ok());
    assert_eq!(start.elapsed().as_millis() / 10, 10);
}

#[tokio::test(start_paused = true)]
async fn many_that_fail_at_once_do_not_make_the_back_off_longer() {
    let balancer = balancer(settings(), &[1]);
    let leases: Vec<_> = (0..40).map(|_| balancer.pick(Instant::now()).unwrap()).collect();
    let failed_at = Instant::now();
    for lease in leases {
        lease.unreachable(failed_at);
    }
    // The first pause; a failed try makes the second one twice as long.
    balancer.acquire().await.unwrap().unreachable(Instant::now());
    assert_eq!(failed_at.elapsed().as_millis() / 10, 10);
    balancer.acquire().await.unwrap().connected();
    assert_eq!(failed_at.elapsed().as_millis() / 10, 30);
}

#[tokio::test(start_paused = true)]
async fn refuses_after_the_failfast_timeout_and_then_at_once_until_an_endpoint_comes() {
    let balancer = balancer(settings(), &[]);
    let start = Instant::now();
    assert_eq!(balancer.acquire().await.unwrap_err(), Refusal::Failfast);
    assert!(start.elapsed() >= 1000 * MS);
    assert!(!balancer.is_available(Instant::now()));
    let again = Instant::now();
    assert_eq!(balancer.acquire().await.unwrap_err(), Refusal::Failfast);
    assert_eq!(again.elapsed(), Duration::ZERO);
    balancer.update(&endpoints(&[7]), Instant::now(), |e| e.address.port());
    assert!(balancer.acquire().await.is_ok());
    assert_eq!(balancer.gate_transitions(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn refuses_what_the_queue_cannot_hold() {
    let balancer = balancer(settings(), &[]);
    let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(balancer.acquire())).collect();
    let mut results = Vec::new();
    for future in &mut waiting {
        results.push(futures::poll!(future));
    }
    assert_eq!(results.iter().filter(|r| r.is_pending()).count(), 3);
    assert!(matches!(results[3], std::task::Poll::Ready(Err(Refusal::Full))));
}

#[tokio::test(start_paused = true)]
async fn a_tripped_endpoint_is_never_chosen_and_comes_back_after_one_good_probe() {
    let backoff = Backoff::new(1000 * MS, 60_000 * MS, 0.0).unwrap();
    let kind = FailureAccrualKind::Consecutive { max_failures: 3, backoff };
    let accrual = Some(FailureAccrual { kind, min_ready_endpoints: 0 });
    let balancer = balancer(Settings { accrual, ..settings() }, &[1, 2]);
    let mut failures = 0;
    while failures < 3 {
        let mut lease = balancer.pick(Instant::now()).unwrap();
        lease.responded(Instant::now());
        let bad = *lease.endpoint() == 1;
        failures += usize::from(bad);
        lease.judge(if bad { Outcome::Failure } else { Outcome::Success }, Instant::now());
    }
    let counts = run(&balancer, 100, |_| MS).await;
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [2], "seed {SEED:#x}");
    tokio::time::advance(1000 * MS).await;
    let now = Instant::now();
    let mut leases: Vec<_> = (0..50).map(|_| balancer.pick(now).unwrap()).collect();
    let mut probes: Vec<_> = leases.iter_mut().filter(|lease| *lease.endpoint() == 1).collect();
    assert_eq!(probes.len(), 1, "one probe at a time");
    probes[0].judge(Outcome::Success, now);
    assert!((0..50).any(|_| *balancer.pick(now).unwrap().endpoint() == 1));
}

#[tokio::test(start_paused = true)]
async fn keeps_the_least_number_of_endpoints_in_use() {
    let backoff = Backoff::new(1000 * MS, 60_000 * MS, 0.0).unwrap();
    let kind = FailureAccrualKind::Consecutive { max_failures: 1, backoff };
    let accrual = Some(FailureAccrual { kind, min_ready_endpoints: 1 });
    let balancer = balancer(Settings { accrual, ..settings() }, &[1, 2, 3]);
    let now = Instant::now();
    for _ in 0..20 {
        balancer.pick(now).unwrap().judge(Outcome::Failure, now);
    }
    assert_eq!(balancer.count(now), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn failures_that_come_quickly_do_not_attract_where_they_are_penalized() {
    let penalty = Some(Penalty { least: 5000 * MS, most: 60_000 * MS });
    for penalty in [None, penalty] {
        let balancer = balancer(Settings { penalty, ..settings() }, &[1, 2]);
        let mut bad = 0;
        for _ in 0..200 {
            let mut lease = balancer.acquire().await.unwrap();
            let is_bad = *lease.endpoint() == 1;
            tokio::time::advance(if is_bad { MS } else { 20 * MS }).await;
            assert_eq!(lease.listens(), penalty.is_some());
            lease.heard(Health { is_bad, retry_after: None });
            lease.responded(Instant::now());
            bad += usize::from(is_bad);
        }
        match penalty {
            None => assert!(bad > 100, "quick failures attract: {bad}"),
            Some(_) => assert!(bad < 40, "seed {SEED:#x}: {bad}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_asks_to_be_left_alone_costs_what_it_asks_for() {
    let penalty = Some(Penalty { least: 5000 * MS, most: 60_000 * MS });
    let balancer = balancer(Settings { penalty, ..settings() }, &[1]);
    let check = |health, expect: Duration| {
        let mut lease = balancer.pick(Instant::now()).unwrap();
        lease.heard(health);
        assert_eq!(lease.penalized(MS), expect, "{health:?}");
        lease.responded(Instant::now());
    };
    let bad = |seconds: Option<u64>| Health {
        is_bad: true,
        retry_after: seconds.map(Duration::from_secs),
    };
    check(Health::default(), MS);
    check(bad(None), 5000 * MS);
    check(bad(Some(1)), 5000 * MS);
    check(bad(Some(20)), 20_000 * MS);
    check(bad(Some(1000)), 60_000 * MS);
}
