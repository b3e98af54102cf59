//! The trees of all lists, as they stand in one half of the table of prefixes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lb_common::admission::{Line, Range, Root, Tree};

use super::Lists;

/// One half of the table. The other half is the packets', until the records of all scopes lead here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// 0 or 1.
    pub half: u32,
    pub lines: Arc<[Line]>,
    /// What it was made of, by scope; `None` if that is not known.
    lists: Option<Vec<(u16, Arc<Lists>)>>,
    /// For IPv4 and IPv6, in the whole table.
    roots: BTreeMap<u16, [Root; 2]>,
}

/// The lists do not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom {
    pub n_lines: usize,
    pub limit: u32,
}

impl Default for Image {
    /// Of no lists.
    fn default() -> Self {
        Self { half: 0, lines: Arc::default(), lists: Some(Vec::new()), roots: BTreeMap::new() }
    }
}

impl Image {
    /// What a running program uses, of which only the place is known.
    pub fn adopted(half: u32) -> Self {
        Self { half, lists: None, ..Self::default() }
    }

    /// The image of these lists, by scope, in a table whose halves have `limit` lines: `previous` if it is of the same, or else one in the
    /// other half.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn new(lists: Vec<(u16, Arc<Lists>)>, previous: &Arc<Self>, limit: u32) -> Result<Arc<Self>, NoRoom> {
        if previous.lists.as_ref() == Some(&lists) {
            return Ok(previous.clone());
        }
        let half = 1 - previous.half.min(1);
        let mut image = Self { half, ..Self::default() };
        let mut lines = Vec::new();
        // Services with the same list share it.
        let mut known: HashMap<&[Range], Root> = HashMap::new();
        for (scope, lists) in &lists {
            let ranges = lists.ranges();
            let mut place = |ranges| match known.get(ranges) {
                Some(&root) => Ok(root),
                None => {
                    let tree = Tree::new(ranges).map_err(|deep| NoRoom { n_lines: deep.n_ranges / 8, limit })?;
                    let root = tree.root.moved_by(half * limit + lines.len() as u32);
                    lines.extend(tree.lines);
                    known.insert(ranges, root);
                    Ok(root)
                }
            };
            image.roots.insert(*scope, [place(ranges.v4.as_slice())?, place(ranges.v6.as_slice())?]);
        }
        if lines.len() > limit as usize {
            return Err(NoRoom { n_lines: lines.len(), limit });
        }
        image.lines = lines.into();
        image.lists = Some(lists);
        Ok(Arc::new(image))
    }

    /// Where a scope's lists are, for IPv4 and IPv6.
    pub fn roots(&self, scope: u16) -> [Root; 2] {
        self.roots.get(&scope).copied().unwrap_or_default()
    }
}
