//! Cold budgets and the control's reasons in /metrics. Registered by metrics.rs; nothing is shown
//! of what no setting asks for.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::broker::cold_budgets::{ColdBudgets, ControlView, Reason};

/// The collector. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct BudgetMetrics(Arc<Mutex<Option<Arc<ColdBudgets>>>>);

impl BudgetMetrics {
    pub(crate) fn watch(&self, budgets: Arc<ColdBudgets>) {
        *self.0.lock() = Some(budgets);
    }
}

impl fmt::Debug for BudgetMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BudgetMetrics")
    }
}

impl Collector for BudgetMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(budgets) = self.0.lock().clone() else { return Ok(()) };
        encode_budgets(&budgets, &mut encoder)?;
        budgets.control_view().map_or(Ok(()), |view| encode_control(&view, &mut encoder))
    }
}

fn encode_budgets(budgets: &ColdBudgets, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let shown = budgets.shown();
    let (name, help) = ("cold_budget_bytes_per_second", "Budget of bytes from the disk; 0: none");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for one in &shown {
        let labels = [("entity", &*one.entity)];
        ConstGauge::new(one.bytes_per_second as i64).encode(family.encode_family(&labels)?)?;
    }
    let (name, help) = ("cold_budget_read_bytes", "Bytes from the disk that count as its own");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for one in &shown {
        let labels = [("entity", &*one.entity)];
        ConstCounter::new(one.read_bytes).encode(family.encode_family(&labels)?)?;
    }
    let (name, help) = ("cold_budget_postponed", "Times that a cold read waited for the budget");
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for one in &shown {
        let labels = [("entity", &*one.entity)];
        ConstCounter::new(one.postponed).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_control(view: &ControlView, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let seconds = |duration: Option<std::time::Duration>| duration.map(|d| d.as_secs_f64());
    let permitted = Some(view.permitted).filter(|rate| rate.is_finite());
    let gauges = [
        ("hot_p99_target_seconds", "fetch.hot.p99.target.ms", seconds(Some(view.target))),
        (
            "hot_p99_seconds",
            "p99 of hot fetches in the control's last window, with the event loop's lag",
            seconds(view.hot_p99),
        ),
        ("loop_lag_p99_seconds", "p99 of the event loops' lag there", seconds(view.lag_p99)),
        (
            "cold_permitted_bytes_per_second",
            "What the control permits all cold reads; absent: any rate",
            permitted,
        ),
    ];
    for (name, help, value) in gauges {
        let Some(value) = value else { continue };
        ConstGauge::new(value).encode(encoder.encode_descriptor(
            name,
            help,
            None,
            MetricType::Gauge,
        )?)?;
    }
    let help = "Why the permitted rate is as it is: 1 for the reason of the last window";
    let mut family = encoder.encode_descriptor("cold_control", help, None, MetricType::Gauge)?;
    for reason in Reason::ALL {
        let labels = [("reason", reason.name())];
        let is_it = i64::from(reason == view.reason);
        ConstGauge::new(is_it).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
