//! A pair of plain relays: no parsing, no encryption.

use super::{Port, Starting};
use crate::bench::{
    place::{SERVER, Side},
    process::Process,
};

/// How bytes get from one socket to the other.
#[derive(Clone, Copy)]
pub(super) enum Means {
    Copy,
    Splice,
}

/// Starts both.
pub(super) fn start(starting: &Starting<'_>, means: Means) -> anyhow::Result<[Process; 2]> {
    let relay = |side: Side, route: &dyn Fn(Port) -> String| {
        let directory = starting.workshop.fresh_directory(&format!("relay-{}", side.name()))?;
        let mut command = starting.place.proxy(side, starting.workshop.tool());
        command
            .arg("relay")
            .args(Port::ALL.iter().flat_map(|port| ["--route".into(), route(*port)]));
        command.args(match means {
            Means::Copy => [].as_slice(),
            Means::Splice => &["--splice"],
        });
        let name = format!("the {}'s relay", side.name());
        Process::start(&name, &mut command, &directory.join("log"))
    };
    Ok([
        relay(Side::Client, &|port| {
            format!("127.0.0.1:{}={SERVER}:{}", port.number(), port.between())
        })?,
        relay(Side::Server, &|port| {
            format!("{SERVER}:{}=127.0.0.1:{}", port.between(), port.number())
        })?,
    ])
}
