//! Lists of prefixes, from the configuration and from files.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::ListError;
use super::ranges::Ranges;

/// Prefixes, some of them in files.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct List {
    pub prefixes: Vec<IpNet>,
    pub files: Vec<PathBuf>,
    /// What stood in each of the files.
    read: Vec<Arc<[IpNet]>>,
}

impl List {
    pub fn new(prefixes: Vec<IpNet>, files: Vec<PathBuf>) -> Self {
        Self { prefixes, files, read: Vec::new() }
    }

    /// Whether there is such a list, be there prefixes on it or not.
    pub fn is_given(&self) -> bool {
        !self.prefixes.is_empty() || !self.files.is_empty()
    }

    /// How many prefixes it has.
    pub fn len(&self) -> usize {
        self.prefixes.len() + self.read.iter().map(|file| file.len()).sum::<usize>()
    }

    /// Whether nobody is on it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn all(&self) -> impl Iterator<Item = IpNet> {
        self.prefixes.iter().chain(self.read.iter().flat_map(|file| file.iter())).copied()
    }

    fn with_files(&self, read: &impl Fn(&Path) -> Arc<[IpNet]>) -> Self {
        Self { read: self.files.iter().map(|path| read(path)).collect(), ..self.clone() }
    }
}

/// A million prefixes are no help in a log.
impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = |(path, read): (&PathBuf, &Arc<[IpNet]>)| format!("{} ({} prefixes)", path.display(), read.len());
        let read: Vec<String> = self.files.iter().zip(&self.read).map(file).collect();
        f.debug_struct("List").field("prefixes", &self.prefixes).field("files", &self.files).field("read", &read).finish()
    }
}

/// The deny list and the allow list of one scope.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Lists {
    pub deny: List,
    pub allow: List,
    ranges: Ranges,
}

impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lists").field("deny", &self.deny).field("allow", &self.allow).finish()
    }
}

impl Lists {
    /// Of what is known without reading a file.
    pub fn new(deny: List, allow: List) -> Self {
        let ranges = Ranges::new(deny.all(), allow.all(), allow.is_given());
        Self { deny, allow, ranges }
    }

    pub(super) fn with_files(&self, read: &impl Fn(&Path) -> Arc<[IpNet]>) -> Self {
        Self::new(self.deny.with_files(read), self.allow.with_files(read))
    }

    /// Files that are named, in any order.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.deny.files.iter().chain(&self.allow.files)
    }

    /// What becomes of whom.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }
}

/// A prefix, or a single address.
///
/// # Errors
/// What is wrong with it, in words.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    let prefix: IpNet = match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().map_err(|_| format!("{text:?} is no prefix"))?,
    };
    let (exact, len) = (prefix.trunc(), prefix.prefix_len());
    if exact != prefix {
        return Err(format!("{text} has more bits than the {len} of its length; {exact} has not, or leave out /{len}"));
    }
    Ok(prefix)
}

/// The prefixes in a file: one a line; `#` or `;`, as the best-known lists have it, begins a comment. `scope` is who names it.
///
/// # Errors
/// It cannot be read, or a line is wrong.
pub fn read(path: &Path, scope: &str) -> Result<Vec<IpNet>, ListError> {
    let bytes =
        std::fs::read(path).map_err(|source| ListError::Unreadable { path: path.to_owned(), scope: scope.to_owned(), source })?;
    let wrong = |line: usize, what: String| ListError::Line { path: path.to_owned(), line, what };
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|&&byte| byte == b'\n').count() + 1;
        wrong(line, "this is no text in UTF-8".to_owned())
    })?;
    let mut prefixes = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let said = line.split(['#', ';']).next().unwrap_or_default().trim();
        if !said.is_empty() {
            prefixes.push(prefix(said).map_err(|what| wrong(number, what))?);
        }
    }
    Ok(prefixes)
}
