//! The file of rules by which replies are judged.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::parse::{ConfigError, read_document, read_file};
use super::table::{Checked, Table};
use crate::limits::{
    REPLY_EXPRESSIONS_MAX, REPLY_PATTERN_BYTES_MAX, REPLY_RULES_MAX, REPLY_TEXTS_MAX,
};
use crate::mail::{Outcome, ReplyClass};
use crate::proto::classify::{
    CodePattern, Effect, Expression, NamePattern, Rule, Rules, Scope, StatusPattern, fold_text,
};

/// The rules that hold where a configuration names no file.
pub(super) fn shipped() -> Arc<Rules> {
    static SHIPPED: LazyLock<Arc<Rules>> = LazyLock::new(|| {
        let rules = parse_rules(SHIPPED_TEXT, "tuning/providers.toml");
        Arc::new(rules.expect("a test reads the shipped rules"))
    });
    SHIPPED.clone()
}

/// Reads and compiles a file of rules.
pub(super) fn load(path: &Path) -> Result<Arc<Rules>, ConfigError> {
    parse_rules(&read_file(path)?, &path.display().to_string()).map(Arc::new)
}

/// Compiles the rules in `text`, in order. `file` is for messages.
pub fn parse_rules(text: &str, file: &str) -> Result<Rules, ConfigError> {
    read_document(text, file, |document| {
        let root = Table::new("", 0, document);
        let mut expression_count = 0;
        let rules = root.tables("rule", |table| {
            let rule = read_rule(table, expression_count)?;
            expression_count += rule.expressions.len();
            Ok(rule)
        })?;
        root.finish()?;
        Rules::new(rules).map_err(|_| {
            let message = format!(
                "rule: too many; at most {REPLY_RULES_MAX} with {REPLY_TEXTS_MAX} distinct texts"
            );
            root.wrong_at(&[&["rule"]], message)
        })
    })
}

fn read_rule(table: &Table<'_, '_>, expression_count: usize) -> Checked<Rule> {
    let mut class = None;
    table.parsed("class", &class_names(), |text| {
        class = Some(ReplyClass::parse(text)?);
        Some(())
    })?;
    let mut rule = Rule {
        codes: Vec::new(),
        statuses: Vec::new(),
        texts: Vec::new(),
        expressions: Vec::new(),
        sites: Vec::new(),
        domains: Vec::new(),
        sources: Vec::new(),
        tenants: Vec::new(),
        class: class.ok_or_else(|| table.missing("class"))?,
        outcome: None,
        effect: None,
    };
    let right = |right: &str| right.to_owned();
    table.one_or_more("code", &mut rule.codes, |text| {
        CodePattern::parse(text).ok_or_else(|| right("a reply code such as \"421\" or \"4xx\""))
    })?;
    table.one_or_more("enhanced", &mut rule.statuses, |text| {
        StatusPattern::parse(text)
            .ok_or_else(|| right("an enhanced status code such as \"4.7.1\" or \"*.2.2\""))
    })?;
    table.one_or_more("text", &mut rule.texts, |text| {
        fold_text(text).ok_or_else(|| format!("1 to {REPLY_PATTERN_BYTES_MAX} octets of text"))
    })?;
    table.one_or_more("regex", &mut rule.expressions, |text| {
        Expression::parse(text).map_err(|reason| format!("a regular expression: {reason}"))
    })?;
    if expression_count + rule.expressions.len() > REPLY_EXPRESSIONS_MAX {
        let message = format!("rule.regex: more than {REPLY_EXPRESSIONS_MAX} in this file");
        return Err(table.wrong_at(&[&["regex"]], message));
    }
    for (key, patterns) in [
        ("site", &mut rule.sites),
        ("domain", &mut rule.domains),
        ("source", &mut rule.sources),
        ("tenant", &mut rule.tenants),
    ] {
        table.one_or_more(key, patterns, |text| {
            NamePattern::parse(text).ok_or_else(|| right("a name with at most one *"))
        })?;
    }
    read_action(table, &mut rule)?;
    if is_unconditional(&rule) {
        let message = "rule: no condition; add code, enhanced, text, regex, site, domain, source \
                       or tenant";
        return Err(table.wrong_at(&[], message.to_owned()));
    }
    Ok(rule)
}

fn is_unconditional(rule: &Rule) -> bool {
    let names = [&rule.sites, &rule.domains, &rule.sources, &rule.tenants];
    rule.codes.is_empty()
        && rule.statuses.is_empty()
        && rule.texts.is_empty()
        && rule.expressions.is_empty()
        && names.iter().all(|names| names.is_empty())
}

/// One of the outcomes and one of the effects, or either alone.
fn read_action(table: &Table<'_, '_>, rule: &mut Rule) -> Checked<()> {
    let mut actions = Vec::new();
    table.one_or_more("action", &mut actions, |text| {
        let found = ACTIONS.iter().find(|(name, _)| *name == text);
        found.map(|(_, action)| *action).ok_or_else(action_names)
    })?;
    let mut factor = None;
    table.optional_number("factor", &mut factor, 2, FACTOR_MAX)?;
    let mut period = Duration::ZERO;
    table.duration("for", &mut period, Duration::from_secs(1))?;
    let mut scope = None;
    table.parsed("scope", "\"site\", \"site+source\" or \"site+tenant\"", |text| {
        scope = Some(SCOPES.iter().find(|(name, _)| *name == text)?.1);
        Some(())
    })?;
    let wrong = |key: &str, text: &str| table.wrong_at(&[&[key]], format!("rule.{key}: {text}"));
    for action in &actions {
        let outcome = match action {
            Action::Permanent => Some(Outcome::Failed),
            Action::Temporary => Some(Outcome::Delayed),
            Action::Slow | Action::Suspend | Action::Dead => None,
        };
        let effect = match action {
            Action::Slow => Some(Effect::Slow { factor: factor.unwrap_or(FACTOR), period }),
            Action::Suspend => {
                Some(Effect::Suspend { scope: scope.unwrap_or(Scope::Site), period })
            }
            Action::Dead => Some(Effect::Dead),
            Action::Permanent | Action::Temporary => None,
        };
        let is_second =
            outcome.and(rule.outcome).is_some() || effect.and(rule.effect.as_ref()).is_some();
        if is_second {
            return Err(wrong("action", "two of a kind; at most one outcome and one effect"));
        }
        rule.outcome = outcome.or(rule.outcome);
        rule.effect = effect.or(rule.effect);
    }
    let is = |action| actions.contains(&action);
    let needs =
        |holds: bool, key: &str, text: &str| if holds { Ok(()) } else { Err(wrong(key, text)) };
    let is_timed = is(Action::Slow) || is(Action::Suspend);
    needs(period.is_zero() || is_timed, "for", "only with action slow or suspend")?;
    needs(!period.is_zero() || !is_timed, "action", "needs for = \"10m\" or the like")?;
    needs(factor.is_none() || is(Action::Slow), "factor", "only with action slow")?;
    needs(scope.is_none() || is(Action::Suspend), "scope", "only with action suspend")
}

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Permanent,
    Temporary,
    Slow,
    Suspend,
    Dead,
}

fn class_names() -> String {
    let names: Vec<&str> = ReplyClass::ALL.iter().map(|class| class.as_str()).collect();
    format!("one of {}", names.join(", "))
}

fn action_names() -> String {
    let names: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
    format!("one of {}", names.join(", "))
}

const ACTIONS: &[(&str, Action)] = &[
    ("permanent", Action::Permanent),
    ("temporary", Action::Temporary),
    ("slow", Action::Slow),
    ("suspend", Action::Suspend),
    ("dead", Action::Dead),
];
const SCOPES: &[(&str, Scope)] = &[
    ("site", Scope::Site),
    ("site+source", Scope::SiteAndSource),
    ("site+tenant", Scope::SiteAndTenant),
];
/// How much slower where a rule does not say.
const FACTOR: u32 = 2;
const FACTOR_MAX: u32 = 1000;
const SHIPPED_TEXT: &str = include_str!("../../tuning/providers.toml");

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, line: usize, expected: &str) {
        let error = parse_rules(text, "rules.toml").expect_err(text).to_string();
        let start = format!("rules.toml:{line}: ");
        assert!(error.starts_with(&start) && error.contains(expected), "{text}\n{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn every_error_names_its_line_and_key() {
        check("rules = 1", 1, "rules: unknown key; known here: rule");
        check("[[rule]]\ncode = \"550\"", 1, "rule.class: missing");
        check("[[rule]]\nclass = \"bad\"", 2, "rule.class: found \"bad\"; expected one of inv");
        check("[[rule]]\nclass = \"spam\"", 1, "rule: no condition");
        let rule = |more: &str| format!("[[rule]]\nclass = \"spam\"\n{more}");
        check(&rule("code = \"6xx\""), 3, "rule.code: found \"6xx\"; expected a reply code");
        check(&rule("enhanced = [\"5.7.1\",\n\"5.7\"]"), 4, "rule.enhanced: found \"5.7\"");
        check(&rule("text = []"), 3, "rule.text: found a list; expected at least one text");
        check(&rule("text = [1]"), 3, "rule.text: found 1; expected a text");
        check(&rule("text = \" \""), 3, "rule.text: found \" \"; expected 1 to 512 octets");
        check(&rule("regex = \"(\""), 3, "a regular expression: unclosed group");
        check(&rule("site = \"*.*\""), 3, "rule.site: found \"*.*\"; expected a name");
        let rule = |more: &str| format!("[[rule]]\nclass = \"rate\"\ntext = \"slow\"\n{more}");
        check(&rule("action = \"stop\""), 4, "rule.action: found \"stop\"; expected one of perm");
        check(&rule("action = \"slow\""), 4, "rule.action: needs for");
        check(&rule("action = [\"dead\", \"slow\"]\nfor = \"5m\""), 4, "two of a kind");
        check(&rule("for = \"5m\""), 4, "rule.for: only with action slow or suspend");
        check(&rule("action = \"slow\"\nfor = \"5\""), 5, "rule.for: found \"5\"");
        check(&rule("action = \"slow\"\nfor = \"5m\"\nfactor = 1"), 6, "rule.factor: found 1");
        check(&rule("action = \"dead\"\nfactor = 2"), 5, "rule.factor: only with action slow");
        check(&rule("action = \"dead\"\nscope = \"site\""), 5, "rule.scope: only with action");
        check(&rule("colour = 1"), 4, "rule.colour: unknown key");
    }

    #[test]
    fn a_rule_says_what_follows() {
        let text = "[[rule]]\nclass = \"rate\"\ncode = \"4xx\"\n\
                    action = [\"slow\", \"temporary\"]\n\
                    for = \"10m\"\nfactor = 4\n[[rule]]\nclass = \"reputation\"\ncode = \"5xx\"\n\
                    action = \"suspend\"\nfor = \"1h\"\nscope = \"site+source\"";
        let rules = parse_rules(text, "f").expect("valid");
        let judge = |code| {
            let reply = crate::mail::Reply::bare(code, "x");
            rules.judge(&crate::proto::classify::ReplyContext {
                reply: &reply,
                site: "",
                domain: "",
                source: "",
                tenant: "",
            })
        };
        let period = Duration::from_secs(600);
        assert_eq!(judge(450).outcome, Some(Outcome::Delayed));
        assert_eq!(judge(450).effect, Some(Effect::Slow { factor: 4, period }));
        let period = Duration::from_secs(3600);
        let scope = Scope::SiteAndSource;
        assert_eq!(judge(550).effect, Some(Effect::Suspend { scope, period }));
    }

    #[test]
    fn the_shipped_rules_are_valid() {
        let rules = parse_rules(SHIPPED_TEXT, "tuning/providers.toml");
        assert!(rules.map_err(|error| error.to_string()).expect("valid").len() > 50);
    }
}
