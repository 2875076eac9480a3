//! Ticks of the control of cold reads, who reads for which group, and what is permitted, for the
//! page.
//!
//! One task on the main thread's runtime, which sleeps for good where no setting asks for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::broker::Broker;
use crate::broker::cold_budgets::TICK;
use crate::stop::{Stop, wait_for};

/// How often assignments are looked at, for budgets of groups, and what is permitted is noted.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs until a stop begins.
pub(crate) async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<Stop>) {
    tokio::select! {
        () = tick(&broker) => {}
        () = wait_for(&mut stop, Stop::Drain) => {}
    }
}

async fn tick(broker: &Broker) {
    let Some(budgets) = &broker.cold_budgets else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick(), if budgets.control.is_some() => {
                budgets.control.iter().for_each(|control| control.tick(Instant::now()));
            }
            _ = looks.tick() => {
                if let Some(bytes_per_second) = budgets.permitted() {
                    broker.last_minutes.note_permitted(Instant::now(), bytes_per_second);
                }
                if budgets.has_groups() {
                    budgets.set_owners(broker.groups.owners());
                }
            }
        }
    }
}
