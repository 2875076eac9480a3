//! `scenarios`: crowds of peers that are idle, read nothing, or fetch much at once.

use crate::log::Log;
use crate::plan::Plan;
use crate::results::Scenarios;
use crate::{idle, many, slow};

/// Measures all scenarios.
///
/// # Errors
/// A server or a run fails.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Scenarios> {
    let log = Log::produce(plan)?;
    Ok(Scenarios {
        idle: idle::measure(plan, &log)?,
        slow: slow::measure(plan, &log)?,
        many: many::measure(plan, &log)?,
    })
}
