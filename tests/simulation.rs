//! The control plane and many proxies under a random history, on a clock that runs as fast as the machine.
//!
//! Random events of a small cluster go through the real publisher and the real services to proxies that ask with
//! their real client. Some connections are slow, some stand still for a while, all of them are cut now and then; the
//! control plane restarts, gently or not, and lists the cluster anew; proxies forget questions, ask others, and restart
//! too. Then the events cease and the network heals. The promises:
//!
//! 1. **Everybody converges.** Within [`SETTLE_MAX`] every proxy knows for every question it asks what
//!    `Index::answer` says of the final objects, in an index that has seen nothing else. Where the answer is that the
//!    cluster contradicts itself, a proxy keeps what it knew, and that was once true.
//! 2. **Silence stays silent.** Afterwards nothing changes, no stream ends that has an answer, and what does not exist
//!    is not asked for more often than it should be.
//! 3. **Everything is understood and everything ends.** No message is refused by its receiver, no task panics, and all
//!    tasks end when they should.
//!
//! That the promises are worth something is seen by breaking them: each of [`faults`] must be noticed.
//!
//! A failure prints its seed; `HAUBERK_SEED=<seed> cargo test -p system-tests --test simulation` runs that one again,
//! and `HAUBERK_SEEDS=<count>` runs more of them than the usual [`SEEDS`].
//!
//! A seed fixes the events, the pace of each connection, and what is cut, restarted and forgotten at which moment. It
//! does not fix the proxies' back-off jitter, the order in which `select!` looks at its branches, nor the order of hash
//! maps: the promises hold for all of these, but a rare failure may need its seed to be run more than once.

#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/network.rs"]
mod network;
#[path = "simulation/proxy.rs"]
mod proxy;
#[path = "simulation/world.rs"]
mod world;

use std::any::Any;
use std::panic::{catch_unwind, resume_unwind};
use std::time::Duration;

use faults::Fault;
use hauberk_resources::Kind;

/// Histories per run.
const SEEDS: u64 = 6;

/// Histories within which a fault must be noticed. Some have too few objects of a kind to miss any.
const FAULTY_SEEDS: u64 = 3;

/// How long proxies may take to know the truth once events have ceased: a proxy that was told "there is no such thing"
/// asks again after 30 seconds, a dead connection is noticed within 15, and a pause between attempts is 10 at most.
const SETTLE_MAX: Duration = Duration::from_secs(60);

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
    };
    match number("HAUBERK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HAUBERK_SEEDS").unwrap_or(SEEDS),
    }
}

/// One history, from beginning to end.
fn history(seed: u64, fault: Option<Fault>) -> Result<world::Counts, Box<dyn Any + Send>> {
    catch_unwind(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(world::World::new(seed, fault).run())
    })
}

#[test]
fn every_proxy_ends_up_knowing_what_the_index_answers() {
    let mut total = world::Counts::default();
    for seed in seeds() {
        match history(seed, None) {
            Ok(counts) => {
                println!("seed {seed}: {counts:?}");
                total.add(&counts);
            }
            Err(panic) => {
                eprintln!("broken with HAUBERK_SEED={seed}");
                resume_unwind(panic);
            }
        }
    }
    // The simulation would be worthless if nothing happened in it.
    if std::env::var_os("HAUBERK_SEED").is_none() {
        total.assert_rich();
    }
}

#[test]
fn what_is_broken_on_purpose_is_noticed() {
    const NOT_CONVERGED: &str = "of the views are wrong";
    let faults = [
        (Fault::Deaf(Kind::EndpointSlice), NOT_CONVERGED),
        (Fault::Deaf(Kind::Pod), NOT_CONVERGED),
        (Fault::Deaf(Kind::Server), NOT_CONVERGED),
        (Fault::Deaf(Kind::MeshTlsAuthentication), NOT_CONVERGED),
        (Fault::Deaf(Kind::EgressNetwork), NOT_CONVERGED),
        (Fault::Deaf(Kind::PolicyHttpRoute), NOT_CONVERGED),
        (Fault::Deaf(Kind::ServiceProfile), NOT_CONVERGED),
        (Fault::DropsEvents, NOT_CONVERGED),
        (Fault::DropsMessages, NOT_CONVERGED),
        (Fault::RepeatsMessages, NOT_CONVERGED),
        (Fault::SaysNothing, "invalid_total"),
        (Fault::Cuts, "streams ended though nothing happened"),
        (Fault::Lingers, "lingers"),
        (Fault::Panics, "tasks panicked"),
    ];
    for (fault, words) in faults {
        let noticed =
            (0..FAULTY_SEEDS).find_map(|seed| Some((seed, history(seed, Some(fault)).err()?)));
        let (seed, panic) = noticed.unwrap_or_else(|| panic!("{fault:?} went unnoticed"));
        let said = panic.downcast::<String>().map_or_else(|_| String::new(), |said| *said);
        println!("{fault:?}: noticed with seed {seed}");
        assert!(said.contains(words), "{fault:?} was taken for something else: {said}");
    }
}
