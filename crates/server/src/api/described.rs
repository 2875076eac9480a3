//! A configuration as DescribeConfigs shows it, of a topic or of the broker: value, sources, type.

use penstock_wire::Str;

use crate::broker::topic_config::Kind;

/// Resource types.
pub(crate) const TOPIC: i8 = 2;
pub(crate) const BROKER: i8 = 4;

/// Where a value comes from.
pub(crate) const OF_THE_TOPIC: i8 = 1;
pub(crate) const OF_THE_OPERATOR: i8 = 4;
pub(crate) const DEFAULT: i8 = 5;

/// One configuration of a topic or a broker.
pub(crate) struct Described {
    pub(crate) name: Str,
    pub(crate) kind: Kind,
    pub(crate) is_read_only: bool,
    /// The possible sources, each with its value there. The first one counts.
    pub(crate) synonyms: Vec<(Str, Option<Str>, i8)>,
    /// The value when there is no synonym.
    pub(crate) otherwise: Option<Str>,
    pub(crate) what: Str,
}

impl Described {
    pub(crate) fn value(&self) -> Option<Str> {
        self.synonyms.first().map_or_else(|| self.otherwise.clone(), |(_, value, _)| value.clone())
    }

    pub(crate) fn source(&self) -> i8 {
        self.synonyms.first().map_or(DEFAULT, |(_, _, source)| *source)
    }
}

impl Described {
    /// This server's retention does not apply to a topic from elsewhere. Where the topic sets none
    /// of its own, nothing expires.
    pub(crate) fn hold_retention(&mut self) {
        let is_retention = matches!(&*self.name, "retention.ms" | "retention.bytes");
        if is_retention && self.source() != OF_THE_TOPIC {
            self.synonyms.clear();
            self.otherwise = Some(Str::from_static("-1"));
        }
    }
}
