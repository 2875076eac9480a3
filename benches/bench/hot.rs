//! Measures fetches from the page cache, of every server and size, in turns.

use crate::load::Load;
use crate::plan::Plan;
use crate::results::Comparison;
use crate::server::Server;

pub(crate) const SIZES: [u32; 3] = [4 << 10, 64 << 10, 1 << 20];
pub(crate) const CONNECTIONS: u32 = 16;

/// Runs the rounds. A round has every server at every size, so that a slow spell of the machine
/// hits all of them.
///
/// # Errors
/// A run fails.
pub(crate) fn measure(
    plan: &Plan,
    servers: &[Server],
    into: &mut Comparison,
) -> anyhow::Result<()> {
    for round in 0..plan.rounds {
        plan.say(&format!("hot, round {} of {}", round + 1, plan.rounds));
        for fetch_bytes in SIZES {
            for server in in_turn(servers, round) {
                let load = Load { connections: CONNECTIONS, fetch_bytes, seconds: plan.seconds };
                let run = load.on(plan, server, round, &mut into.thrown_away)?;
                into.hot.push(run);
            }
        }
    }
    into.hot.sort_by_key(|run| servers.iter().position(|server| server.name == run.server));
    Ok(())
}

/// Each server is first in some round.
fn in_turn<T>(all: &[T], round: u32) -> impl Iterator<Item = &T> {
    let first = round as usize % all.len().max(1);
    all[first..].iter().chain(&all[..first])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_everybody_and_another_first() {
        let order = |round| in_turn(&[1, 2, 3], round).copied().collect::<Vec<_>>();
        assert_eq!([order(0), order(1), order(5)], [[1, 2, 3], [2, 3, 1], [3, 1, 2]]);
    }
}
