use super::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SEED: u64 = 0xaff1;

/// Endpoints with nothing under way.
fn places(ports: std::ops::Range<u16>) -> Vec<Candidate> {
    let candidate = |port| {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        Candidate { place: Place::new(address), under_way: 0, share: 1.0 }
    };
    ports.map(candidate).collect()
}

fn keys(count: u32) -> impl Iterator<Item = Key> {
    (0..count).map(|number| Key::of_bytes(&(number ^ SEED as u32).to_be_bytes()))
}

fn free(key: Key, endpoints: &[Candidate]) -> Option<usize> {
    pick(key, None, None, endpoints.len(), |index| Some(endpoints[index]))
}

#[test]
fn keys_spread_evenly_over_endpoints() {
    for endpoints in [2u16, 3, 10, 50] {
        let places = places(1..endpoints + 1);
        let mut counts = vec![0usize; endpoints.into()];
        for key in keys(20_000) {
            counts[free(key, &places).unwrap()] += 1;
        }
        let fair = 20_000 / usize::from(endpoints);
        assert!(
            counts.iter().all(|count| count.abs_diff(fair) < fair / 4),
            "seed {SEED:#x}: {counts:?}, fair would be {fair}"
        );
    }
}

#[test]
fn a_new_endpoint_takes_its_share_and_no_other_key_moves() {
    for endpoints in [1u16, 2, 9] {
        let before = places(1..endpoints + 1);
        let after = places(1..endpoints + 2);
        let mut moved = 0usize;
        for key in keys(10_000) {
            let (old, new) = (free(key, &before), free(key, &after));
            if old != new {
                assert_eq!(new, Some(usize::from(endpoints)), "seed {SEED:#x}: {key:?}");
                moved += 1;
            }
        }
        let fair = 10_000 / (usize::from(endpoints) + 1);
        assert!(moved.abs_diff(fair) < fair / 4, "seed {SEED:#x}: {moved} of 10000 moved");
    }
}

#[test]
fn only_the_keys_of_an_unavailable_endpoint_move_and_they_come_back() {
    let all = places(1..8);
    let without_fourth = |index: usize| (index != 3).then_some(all[index]);
    let mut moved_to = vec![0; all.len()];
    for key in keys(5_000) {
        let home = free(key, &all).unwrap();
        let meanwhile = pick(key, None, None, all.len(), without_fourth).unwrap();
        if home == 3 {
            moved_to[meanwhile] += 1;
        } else {
            assert_eq!(home, meanwhile, "seed {SEED:#x}: {key:?}");
        }
    }
    assert_eq!(moved_to[3], 0);
    assert!(moved_to.iter().filter(|n| **n > 50).count() == 6, "they spread: {moved_to:?}");
}

/// No endpoint ever gets more than its multiple of the mean, whatever keys come and how long
/// requests last, and while there is room a key stays where it belongs.
#[test]
fn no_endpoint_has_more_than_its_multiple_of_the_mean() {
    let mut rng = SmallRng::seed_from_u64(SEED);
    for percent in [100, 125, 200, 1000] {
        let bound = Bound::from_percent(percent).unwrap();
        let mut endpoints = places(1..7);
        let mut under_way: Vec<usize> = Vec::new();
        let mut at_home = 0;
        for _ in 0..5_000 {
            // Few keys, and one of them asked for most, so that the bound is reached.
            let number = if rng.random_bool(0.6) { 0 } else { rng.random_range(0..5u8) };
            let key = Key::of_bytes(&[number]);
            let away = rng.random_range(0..20usize);
            let see = |index: usize| (index != away).then_some(endpoints[index]);
            let picked = pick(key, Some(bound), None, endpoints.len(), see).unwrap();
            let available: Vec<&Candidate> =
                endpoints.iter().enumerate().filter(|(i, _)| *i != away).map(|(_, e)| e).collect();
            let total: u32 = available.iter().map(|e| e.under_way).sum::<u32>() + 1;
            let mean = f64::from(total) / available.len() as f64;
            let most = (mean * f64::from(percent) / 100.0).ceil();
            let has = endpoints[picked].under_way + 1;
            assert!(
                f64::from(has) <= most,
                "seed {SEED:#x}, bound {percent}: {has} where {most} is the most"
            );
            at_home += usize::from(Some(picked) == free(key, &endpoints));
            endpoints[picked].under_way += 1;
            under_way.push(picked);
            while under_way.len() > 60 || (!under_way.is_empty() && rng.random_bool(0.4)) {
                let done = under_way.swap_remove(rng.random_range(0..under_way.len()));
                endpoints[done].under_way -= 1;
            }
        }
        println!("bound {percent}: {at_home} of 5000 at home");
        assert!(percent < 1000 || at_home > 4_500, "a wide bound leaves keys alone: {at_home}");
    }
}

#[test]
fn a_new_endpoint_takes_its_keys_one_after_the_other_and_keeps_them() {
    let mut endpoints = places(1..6);
    let mut has = vec![false; 5_000];
    for percent in [10, 30, 50, 80, 100] {
        endpoints[4].share = f64::from(percent) / 100.0;
        for (key, has) in keys(5_000).zip(&mut has) {
            let is_there = free(key, &endpoints) == Some(4);
            assert!(is_there || !*has, "seed {SEED:#x}: {key:?} went back");
            *has = is_there;
        }
        let count = has.iter().filter(|has| **has).count();
        let fair = 5_000 * percent / 100 / 5;
        assert!(
            count.abs_diff(fair as usize) < 120,
            "seed {SEED:#x}: {count} at {percent} percent"
        );
    }
}

#[test]
fn endpoints_that_are_all_new_share_the_keys() {
    let mut endpoints = places(1..4);
    for endpoint in &mut endpoints {
        endpoint.share = 0.0;
    }
    assert!(keys(100).all(|key| free(key, &endpoints).is_some()));
    assert_eq!(pick(Key(1), None, None, 0, |_| None), None);
    assert_eq!(pick(Key(1), Some(Bound::DEFAULT), Some(0), 3, |_| None), None);
}

#[test]
fn what_is_kept_goes_before_scores_but_not_before_the_bound() {
    let mut endpoints = places(1..4);
    let key = Key(7);
    let home = free(key, &endpoints).unwrap();
    let kept = (home + 1) % 3;
    let chosen = |endpoints: &[Candidate], bound| {
        pick(key, bound, Some(kept), 3, |index| Some(endpoints[index])).unwrap()
    };
    assert_eq!(chosen(&endpoints, None), kept);
    endpoints[kept].under_way = 5;
    assert_eq!(chosen(&endpoints, None), kept);
    assert_eq!(chosen(&endpoints, Some(Bound::DEFAULT)), home);
}

#[test]
fn keys_are_found_where_they_are_looked_for() {
    let ip: IpAddr = [10, 0, 0, 9].into();
    let check = |key: AffinityKey, headers: &[(&'static str, &str)], expect: Option<&[u8]>| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let affinity = Affinity { key, bound: None, memory: None };
        let found = Key::of_request(&affinity, &map, ip);
        assert_eq!(found, expect.map(Key::of_bytes), "{affinity:?} {headers:?}");
    };
    let header = || AffinityKey::Header("x-user".parse().unwrap());
    let cookie = || AffinityKey::Cookie(Cookie::named("sid"));
    check(AffinityKey::Source, &[], Some(&[10, 0, 0, 9]));
    check(header(), &[], None);
    check(header(), &[("x-user", "ann"), ("x-user", "bob")], Some(b"ann"));
    check(cookie(), &[], None);
    check(cookie(), &[("cookie", "a=1; sid=42;b=2")], Some(b"42"));
    check(cookie(), &[("cookie", "a=1"), ("cookie", "sid=42")], Some(b"42"));
    check(cookie(), &[("cookie", "xsid=1; sidx=2; sid; SID=3")], None);
    check(cookie(), &[("cookie", "sid=")], Some(b""));
    let by_header = Affinity { key: header(), bound: None, memory: None };
    assert_eq!(Key::of_connection(&by_header, ip), None);
}

#[test]
fn a_cookie_that_is_given_has_the_key_of_the_requests_that_it_comes_back_with() {
    let check = |given: Option<Lifetime>, has: &[&str], expect: &[&str]| {
        let cookie = Cookie { name: "sid".into(), given };
        let mut response = HeaderMap::new();
        for field in has {
            response.append(SET_COOKIE, field.parse().unwrap());
        }
        if let Some(cookie) = GivenCookie::new(&cookie, 0xfe) {
            let mut request = HeaderMap::new();
            request.insert(COOKIE, "sid=00000000000000fe".parse().unwrap());
            let key = AffinityKey::Cookie(Cookie::named("sid"));
            let affinity = Affinity { key, bound: None, memory: None };
            let found = Key::of_request(&affinity, &request, [10, 0, 0, 9].into());
            assert_eq!(found, Some(cookie.key()));
            cookie.give(&mut response);
        }
        let fields: Vec<&str> =
            response.get_all(SET_COOKIE).iter().map(|field| field.to_str().unwrap()).collect();
        assert_eq!(fields, expect, "{given:?}");
    };
    let session = "sid=00000000000000fe; Path=/; HttpOnly; SameSite=Lax";
    let hour = "sid=00000000000000fe; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600";
    check(None, &[], &[]);
    check(Some(Lifetime::Session), &[], &[session]);
    check(Some(Lifetime::For(Duration::from_secs(3600))), &[], &[hour]);
    check(Some(Lifetime::Session), &["sidx=1", "a=sid=2"], &["sidx=1", "a=sid=2", session]);
    check(Some(Lifetime::Session), &["a=1", "sid=its own"], &["a=1", "sid=its own"]);
}

#[test]
fn memory_lasts_for_its_time_and_is_bounded() {
    let (start, hour) = (Instant::now(), Duration::from_secs(3600));
    let address = SocketAddr::from(([10, 0, 0, 1], 1));
    let mut memory = Memory::default();
    memory.keep(Key(1), address, hour, start);
    assert_eq!(memory.recall(Key(1), hour, start + hour / 2), Some(address));
    assert_eq!(memory.recall(Key(1), hour, start + hour), None);
    for key in 0..20_000 {
        memory.keep(Key(key), address, hour, start + hour / 2);
    }
    assert_eq!(memory.len(), KEYS_MAX);
    assert_eq!(memory.recall(Key(19_999), hour, start + hour / 2), None, "it goes by scores");
    memory.keep(Key(19_999), address, hour, start + 2 * hour);
    assert_eq!(memory.len(), 1, "what is old makes room");
}

/// Proxies of different versions have to agree, so scores are part of a protocol.
#[test]
fn scores_are_fixed() {
    assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
    let place = Place::new("10.0.0.1:80".parse().unwrap());
    let mapped = Place::new("[::ffff:10.0.0.1]:80".parse().unwrap());
    assert_eq!(place, mapped);
    assert_ne!(place, Place::new("10.0.0.1:81".parse().unwrap()));
    let picked: Vec<usize> = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .map(|name| free(Key::of_bytes(name.as_bytes()), &places(1..5)).unwrap())
        .into();
    assert_eq!(picked, [1, 2, 2, 3, 3, 1, 2, 3]);
}
