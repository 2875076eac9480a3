//! Budgets of bytes from the disk, by client id and by group, as `fetch.cold.budgets` has them.
//!
//! ```text
//!   client-id/backfill=50000000, group/reports=10_000_000
//!   └─ kind   └ name   └ bytes a second
//! ```
//!
//! Pure. Kafka's quota entities are user, client id and (here) group. Without SASL every client is
//! the user ANONYMOUS, so a budget of a user is refused.

use std::fmt;

/// Budgets at once.
const BUDGETS_MAX: usize = 1000;

/// Whose budget it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entity {
    Everyone,
    ClientId(String),
    Group(String),
}

/// One budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColdBudget {
    pub(crate) entity: Entity,
    pub(crate) bytes_per_second: u64,
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entity::Everyone => write!(f, "everyone"),
            Entity::ClientId(name) => write!(f, "client-id/{name}"),
            Entity::Group(name) => write!(f, "group/{name}"),
        }
    }
}

/// The setting's text, which [`parse`] takes.
pub(crate) fn text(budgets: &[ColdBudget]) -> String {
    let text = |budget: &ColdBudget| format!("{}={}", budget.entity, budget.bytes_per_second);
    budgets.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// Reads the setting's text: budgets with commas between them. A name has no comma.
///
/// # Errors
/// An entry that is no budget, an entity named twice, a user; worded to follow the value.
pub(crate) fn parse(text: &str) -> Result<Vec<ColdBudget>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let mut budgets: Vec<ColdBudget> = Vec::new();
    for entry in entries {
        let budget = parse_one(entry)?;
        if budgets.iter().any(|other| other.entity == budget.entity) {
            return Err(format!("names {} twice", budget.entity));
        }
        budgets.push(budget);
    }
    match budgets.len() {
        0..=BUDGETS_MAX => Ok(budgets),
        more => Err(format!("has {more} budgets, and {BUDGETS_MAX} are the most")),
    }
}

fn parse_one(entry: &str) -> Result<ColdBudget, String> {
    let form = || format!("has `{entry}`, which is not client-id/NAME=BYTES or group/NAME=BYTES");
    let (entity, bytes) = entry.rsplit_once('=').ok_or_else(form)?;
    let (kind, name) = entity.trim().split_once('/').ok_or_else(form)?;
    let name = name.to_owned();
    let entity = match kind {
        _ if name.is_empty() => return Err(form()),
        "client-id" => Entity::ClientId(name),
        "group" => Entity::Group(name),
        "user" => {
            return Err(format!(
                "has `{entry}`, but without SASL all clients are one user: \
                fetch.cold.bytes.per.second is everyone's budget"
            ));
        }
        _ => return Err(form()),
    };
    let number = bytes.trim().replace('_', "").parse().ok();
    let bytes_per_second = number.filter(|number| (1..=1 << 40).contains(number));
    let refused = || format!("has `{entry}`: a budget is from 1 to {} bytes a second", 1_u64 << 40);
    Ok(ColdBudget { entity, bytes_per_second: bytes_per_second.ok_or_else(refused)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_and_shown_as_the_text_that_gives_them() {
        let budgets = parse(" client-id/a=b/c = 1_000 ,group/g=2,").unwrap();
        let entities: Vec<_> = budgets.iter().map(|budget| budget.entity.to_string()).collect();
        assert_eq!(entities, ["client-id/a=b/c", "group/g"]);
        assert_eq!(budgets[0].bytes_per_second, 1000);
        assert_eq!(parse(&text(&budgets)).unwrap(), budgets);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn what_is_no_budget_is_refused_in_words() {
        let refusals = [
            ("backfill=5", "not client-id/NAME=BYTES"),
            ("client-id/=5", "not client-id/NAME=BYTES"),
            ("client-id/a", "not client-id/NAME=BYTES"),
            ("ip/10.0.0.1=5", "not client-id/NAME=BYTES"),
            ("group/g=0", "from 1 to"),
            ("group/g=-1", "from 1 to"),
            ("group/g=fast", "from 1 to"),
            ("group/g=1,group/g=2", "names group/g twice"),
            ("user/ANONYMOUS=5", "without SASL all clients are one user"),
        ];
        for (value, words) in refusals {
            let refused = parse(value).unwrap_err();
            assert!(refused.contains(words), "{value}: {refused}");
        }
        let many: String = (0..=BUDGETS_MAX).map(|n| format!("group/{n}=1,")).collect();
        assert!(parse(&many).unwrap_err().contains("1001 budgets"));
    }
}
