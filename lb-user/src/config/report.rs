//! What is wrong with a configuration, shown in the way of rustc: the line, the place in it, and what to do.

use std::fmt;
use std::io;
use std::ops::Range;

use crate::admission::ListError;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// Shown at most; who gave the wrong file needs no thousand proofs of it.
const SHOWN_PROBLEMS: usize = 30;

/// One thing that is wrong, and where.
#[derive(Debug)]
pub(super) struct Problem {
    title: String,
    span: Range<usize>,
    label: String,
    other: Option<(Range<usize>, &'static str)>,
    help: Option<String>,
}

impl Problem {
    /// `label` stands beside the carets; it may be empty.
    pub(super) fn new(title: impl Into<String>, span: Range<usize>, label: impl Into<String>) -> Self {
        Self { title: title.into(), span, label: label.into(), other: None, help: None }
    }

    /// Marks a second place, such as the first use of a name that is now used again.
    pub(super) fn and(mut self, span: Range<usize>, label: &'static str) -> Self {
        self.other = Some((span, label));
        self
    }

    /// What the operator should do.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn group<'a>(&'a self, file: &'a str, text: &'a str) -> Group<'a> {
        let mark = |kind: AnnotationKind, span: &Range<usize>, label: &'a str| {
            let annotation = kind.span(visible(span, text));
            if label.is_empty() { annotation } else { annotation.label(label) }
        };
        let snippet = Snippet::source(text)
            .path(file)
            .annotation(mark(AnnotationKind::Primary, &self.span, &self.label))
            .annotations(self.other.iter().map(|(span, label)| mark(AnnotationKind::Context, span, label)));
        let group = Level::ERROR.primary_title(self.title.as_str()).element(snippet);
        group.elements(self.help.iter().map(|help| Level::HELP.message(help.as_str())))
    }
}

/// The span within its first line: a mark over several lines hides more than it shows.
fn visible(span: &Range<usize>, text: &str) -> Range<usize> {
    let start = span.start.min(text.len());
    let end = span.end.clamp(start, text.len());
    let first_line = text.get(start..end).and_then(|marked| marked.find('\n'));
    start..first_line.map_or(end, |length| start + length)
}

/// What has been found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why there is no configuration. [`Display`](fmt::Display) shows all of it, on several lines, for people.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("error: {file}: cannot be read: {source}\n  = help: name a file that this user may read, in UTF-8")]
    Unreadable { file: String, source: io::Error },
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    List(#[from] ListError),
}

impl ConfigError {
    pub(super) fn refused(file: &str, text: &str, mut problems: Problems) -> Self {
        problems.0.sort_by_key(|problem| problem.span.start);
        Self::Refused(Refused { file: file.to_owned(), text: text.to_owned(), problems: problems.0 })
    }
}

/// A file with problems, in the order of the file.
#[derive(Debug)]
pub struct Refused {
    file: String,
    text: String,
    problems: Vec<Problem>,
}

impl Refused {
    pub fn n_problems(&self) -> usize {
        self.problems.len()
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let renderer = Renderer::plain();
        for problem in self.problems.iter().take(SHOWN_PROBLEMS) {
            writeln!(f, "{}\n", renderer.render(&[problem.group(&self.file, &self.text)]))?;
        }
        match self.problems.len() {
            1 => write!(f, "error: {}: 1 problem", self.file),
            n if n <= SHOWN_PROBLEMS => write!(f, "error: {}: {n} problems", self.file),
            n => write!(f, "error: {}: {n} problems, the first {SHOWN_PROBLEMS} shown", self.file),
        }
    }
}
