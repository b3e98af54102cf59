//! One table of the file, read key by key: whatever nobody asked for is an unknown key.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Problem, Problems};
use super::suggest::nearest;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// Why a value is refused; the section knows its key and place.
#[derive(Debug)]
pub(super) struct Fault {
    /// Stands beside the carets.
    pub(super) label: String,
    /// What to do.
    pub(super) help: String,
}

impl Fault {
    pub(super) fn new(label: impl Into<String>, help: impl Into<String>) -> Self {
        Self { label: label.into(), help: help.into() }
    }

    pub(super) fn at(self, key: &str, place: &str, span: Range<usize>) -> Problem {
        Problem::new(format!("invalid `{key}` in {place}"), span, self.label).help(self.help)
    }
}

/// A table whose keys are being read.
pub(super) struct Section<'a> {
    /// As the file writes it, such as `[service.health]`.
    place: &'static str,
    /// Its header, where what is missing is reported.
    pub(super) span: Range<usize>,
    table: &'a DeTable<'a>,
    /// Asked for.
    known: Vec<&'static str>,
    /// Dealt with, but not keys to suggest here.
    dismissed: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn document(table: &'a DeTable<'a>) -> Self {
        Self { place: "the file", span: 0..0, table, known: Vec::new(), dismissed: Vec::new() }
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.get(key)
    }

    /// A key's value. `None` if it is absent, or wrong and reported.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, Fault>,
    ) -> Option<At<T>> {
        let found = self.get(key)?;
        match read(found.get_ref()) {
            Ok(value) => Some(At { value, span: found.span() }),
            Err(fault) => {
                problems.push(fault.at(key, self.place, found.span()));
                None
            }
        }
    }

    /// A key's value, or `default` if it is absent. `None` if it is wrong and reported.
    pub(super) fn or<T>(
        &mut self,
        key: &'static str,
        default: T,
        problems: &mut Problems,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, Fault>,
    ) -> Option<At<T>> {
        let given = self.has(key);
        let value = self.optional(key, problems, read);
        if given { value } else { Some(At { value: default, span: self.span.clone() }) }
    }

    /// A key's value. `None` after reporting that it is absent or wrong; `help` says what to add.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        help: &str,
        problems: &mut Problems,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, Fault>,
    ) -> Option<At<T>> {
        if !self.has(key) {
            self.missing(key, help, problems);
        }
        self.optional(key, problems, read)
    }

    /// A table within.
    pub(super) fn table(&mut self, key: &'static str, place: &'static str, problems: &mut Problems) -> Option<Section<'a>> {
        let found = self.get(key)?;
        let section = Self::of(found, place);
        if section.is_none() {
            let help = format!("write `{place}` on a line of its own, and its keys below");
            problems.push(not_a_table(format!("`{key}` must be a section"), found, help));
        }
        section
    }

    /// An array of tables within; empty if absent.
    pub(super) fn tables(&mut self, key: &'static str, place: &'static str, problems: &mut Problems) -> Vec<Section<'a>> {
        let Some(found) = self.get(key) else { return Vec::new() };
        let mut sections = Vec::new();
        let elements = match found.get_ref() {
            DeValue::Array(elements) => elements.iter().as_slice(),
            _ => std::slice::from_ref(found),
        };
        for element in elements {
            match (found.get_ref(), Self::of(element, place)) {
                (DeValue::Array(_), Some(section)) => sections.push(section),
                _ => problems.push(not_a_table(
                    format!("`{key}` must be a list of sections"),
                    element,
                    format!("write `{place}`, in double brackets, above the keys of each {key}"),
                )),
            }
        }
        sections
    }

    /// A table within, or an array of at least one. Nothing if absent, or wrong and reported. `places` are the two forms.
    pub(super) fn one_or_more(
        &mut self,
        key: &'static str,
        places: [&'static str; 2],
        problems: &mut Problems,
    ) -> Vec<Section<'a>> {
        let [one, many] = places;
        match self.table.get(key).map(|found| (found, found.get_ref())) {
            Some((found, DeValue::Array(elements))) if elements.is_empty() => {
                self.known.push(key);
                problems.push(
                    Problem::new(format!("`{key}` is an empty list"), found.span(), "nothing in it")
                        .help(format!("add `{many}`, or remove `{key}`")),
                );
                Vec::new()
            }
            Some((_, DeValue::Array(_))) => self.tables(key, many, problems),
            _ => self.table(key, one, problems).into_iter().collect(),
        }
    }

    fn of(found: &'a Spanned<DeValue<'a>>, place: &'static str) -> Option<Section<'a>> {
        let table = found.get_ref().as_table()?;
        Some(Section { place, span: found.span(), table, known: Vec::new(), dismissed: Vec::new() })
    }

    /// Whether the key stands in the file, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where the key stands, if it does.
    pub(super) fn span_of(&self, key: &str) -> Option<Range<usize>> {
        self.table.iter().find(|(found, _)| found.get_ref() == key).map(|(found, _)| found.span())
    }

    /// Where the key stands, if it does. It has no meaning here, and the caller says so instead of [`Self::finish`].
    pub(super) fn dismiss(&mut self, key: &'static str) -> Option<Range<usize>> {
        self.dismissed.push(key);
        self.span_of(key)
    }

    /// Reports that a key is absent.
    pub(super) fn missing(&self, key: &str, help: &str, problems: &mut Problems) {
        problems.push(Problem::new(format!("missing `{key}` in {}", self.place), self.span.clone(), "").help(help));
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for (key, _) in self.table.iter() {
            let word = key.get_ref();
            if self.known.contains(&word.as_ref()) || self.dismissed.contains(&word.as_ref()) {
                continue;
            }
            let label = match nearest(word, self.known.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => "not a key that xlb knows".to_owned(),
            };
            problems.push(
                Problem::new(format!("unknown key `{word}` in {}", self.place), key.span(), label)
                    .help(format!("known here are {}", self.known.join(", "))),
            );
        }
    }
}

fn not_a_table(title: String, found: &Spanned<DeValue<'_>>, help: String) -> Problem {
    let label = match found.get_ref() {
        DeValue::Table(_) => "a single section".to_owned(),
        value => format!("found {}", super::values::found(value)),
    };
    Problem::new(title, found.span(), label).help(help)
}
