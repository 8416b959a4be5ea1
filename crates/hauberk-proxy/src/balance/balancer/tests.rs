use super::*;
use hauberk_model::balancing::{AffinityKey, Bound};
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
        slow_start: None,
        affinity: None,
        owner: None,
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

const WINDOW: Duration = Duration::from_secs(100);

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_joins_others_begins_with_a_small_share() {
    let settings = Settings { slow_start: Some(WINDOW), ..settings() };
    let balancer = balancer(settings, &[1, 2, 3]);
    // Nobody knows how long the first ones have been there.
    let counts = run(&balancer, 300, |_| Duration::ZERO).await;
    assert!(counts.values().all(|n| n.abs_diff(100) < 40), "seed {SEED:#x}: {counts:?}");
    balancer.update(&endpoints(&[1, 2, 3, 4]), Instant::now(), |e| e.address.port());
    for (percent, wait) in [(10, 0), (50, 50), (90, 40), (100, 10), (100, 1000)] {
        tokio::time::advance(Duration::from_secs(wait)).await;
        // Not one after the other: what an endpoint took does not matter here, only its share.
        let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
        for _ in 0..4000 {
            let mut lease = balancer.pick(Instant::now()).unwrap();
            *counts.entry(*lease.endpoint()).or_default() += 1;
            lease.responded(Instant::now());
        }
        let fair = 1000 * percent / 100;
        let got = counts.get(&4).copied().unwrap_or_default();
        assert!(got.abs_diff(fair) < 150, "seed {SEED:#x}: {counts:?} at {percent} percent");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_is_used_in_full_when_it_is_the_only_one_available() {
    let settings = Settings { slow_start: Some(WINDOW), ..settings() };
    let balancer = balancer(settings, &[1]);
    balancer.update(&endpoints(&[1, 2]), Instant::now(), |e| e.address.port());
    let lease = loop {
        let lease = balancer.pick(Instant::now()).unwrap();
        if *lease.endpoint() == 1 {
            break lease;
        }
    };
    lease.unreachable(Instant::now());
    for _ in 0..50 {
        assert_eq!(*balancer.pick(Instant::now()).unwrap().endpoint(), 2);
    }
    // One that is described otherwise is no newer for it; one that comes back is.
    let mut relabelled = endpoints(&[1, 2]);
    for endpoint in relabelled.by_address.values_mut() {
        Arc::make_mut(endpoint).weight += 1;
    }
    tokio::time::advance(2 * WINDOW).await;
    balancer.update(&relabelled, Instant::now(), |e| e.address.port());
    assert_eq!(run(&balancer, 200, |_| MS).await[&2] / 50, 2, "seed {SEED:#x}");
}

fn sticky(bound: Option<Bound>, memory: Option<Duration>) -> Settings {
    let affinity = Some(Affinity { key: AffinityKey::Source, bound, memory });
    Settings { affinity, ..settings() }
}

fn key(number: u8) -> Option<Key> {
    let affinity = Affinity { key: AffinityKey::Source, bound: None, memory: None };
    Key::of_connection(&affinity, [10, 0, 0, number].into())
}

fn port(balancer: &Balancer<u16>, key: Option<Key>) -> u16 {
    *balancer.pick_for(key, Instant::now()).unwrap().endpoint()
}

#[tokio::test(start_paused = true)]
async fn a_key_keeps_its_endpoint_and_falls_over_while_that_is_unreachable() {
    let balancer = balancer(sticky(None, None), &[1, 2, 3, 4]);
    let all: Vec<u16> = (0..100).map(|number| port(&balancer, key(number))).collect();
    for (number, home) in (0..100).zip(&all) {
        assert!((0..5).all(|_| port(&balancer, key(number)) == *home));
    }
    let lost = all[0];
    balancer.pick_for(key(0), Instant::now()).unwrap().unreachable(Instant::now());
    for (number, home) in (0..100).zip(&all) {
        let now = port(&balancer, key(number));
        assert!(if *home == lost { now != lost } else { now == *home }, "{number}");
    }
    tokio::time::advance(1000 * MS).await;
    balancer.pick_for(key(0), Instant::now()).unwrap().connected();
    assert!((0..100).zip(&all).all(|(number, home)| port(&balancer, key(number)) == *home));
    // Without a key the load decides.
    let without: std::collections::BTreeSet<u16> =
        (0..100).map(|_| port(&balancer, None)).collect();
    assert_eq!(without.len(), 4, "seed {SEED:#x}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_asks_for_too_much_spills_over() {
    let free = balancer(sticky(None, None), &[1, 2, 3, 4]);
    let leases: Vec<_> = (0..40).map(|_| free.pick_for(key(1), Instant::now()).unwrap()).collect();
    let home = *leases[0].endpoint();
    assert!(leases.iter().all(|lease| *lease.endpoint() == home));

    let bounded = balancer(sticky(Some(Bound::DEFAULT), None), &[1, 2, 3, 4]);
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    let mut leases = Vec::new();
    for total in 1..=40usize {
        let lease = bounded.pick_for(key(1), Instant::now()).unwrap();
        let count = counts.entry(*lease.endpoint()).or_default();
        *count += 1;
        assert!(*count <= (total * 125).div_ceil(400), "{counts:?}");
        leases.push(lease);
    }
    assert_eq!(counts[&home], 13, "a quarter more than the mean of 10: {counts:?}");
    drop(leases);
    assert_eq!(port(&bounded, key(1)), home);
}

#[tokio::test(start_paused = true)]
async fn a_remembered_endpoint_is_kept_when_others_come_until_it_was_unused_for_long() {
    let few: [u16; 2] = [1, 2];
    let many: Vec<u16> = (1..=40).collect();
    let forgetful = balancer(sticky(None, None), &few);
    let mindful = balancer(sticky(None, Some(WINDOW)), &few);
    let before: Vec<u16> = (0..100).map(|number| port(&mindful, key(number))).collect();
    for balancer in [&forgetful, &mindful] {
        balancer.update(&endpoints(&many), Instant::now(), |e| e.address.port());
    }
    let moved = |balancer: &Balancer<u16>| {
        let moved = |(number, home): &(u8, &u16)| port(balancer, key(*number)) != **home;
        (0..100).zip(&before).filter(moved).count()
    };
    assert!(moved(&forgetful) > 80);
    tokio::time::advance(WINDOW / 2).await;
    assert_eq!(moved(&mindful), 0);
    tokio::time::advance(WINDOW / 2).await;
    assert_eq!(moved(&mindful), 0, "used meanwhile");
    tokio::time::advance(WINDOW).await;
    assert_eq!(moved(&mindful), moved(&forgetful), "unused for as long as that");
    // One that is gone is forgotten.
    let home = port(&mindful, key(1));
    let rest: Vec<u16> = many.into_iter().filter(|port| *port != home).collect();
    mindful.update(&endpoints(&rest), Instant::now(), |e| e.address.port());
    assert_ne!(port(&mindful, key(1)), home);
}
