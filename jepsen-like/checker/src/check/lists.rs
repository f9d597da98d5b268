//! Lists, trusting no revision: what surely was there during a whole listing appears exactly once,
//! what surely was not does not, and everything that appears was once written.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{Call, CallId, Entry, Filter, History, ItemReply, Operation, Reply};
use crate::verdict::{CheckReport, Violation};

/// A listing: its pages, from the first invocation to the last completion.
struct Listing<'a> {
    filter: &'a Filter,
    pages: Vec<CallId>,
    invoked: u64,
    ended: u64,
}

/// What is known of an entry id.
#[derive(Default)]
struct Life {
    /// The line that acknowledges it as there, while nothing that could remove it has begun.
    there: Option<u64>,
    /// The line that acknowledges it as gone, while nothing that could create it has begun.
    gone: Option<u64>,
    /// Calls that may create or remove it and have not ended.
    creating: u32,
    removing: u32,
    /// The last line at which such a call ended.
    create_ended: u64,
    remove_ended: u64,
    /// Whether anyone ever tried to create it.
    was_created: bool,
    /// Whether it was ever updated: then a filter may hide it.
    was_updated: bool,
    entry: Option<std::sync::Arc<Entry>>,
}

/// Checks every listing that ended.
pub fn lists(history: &History) -> CheckReport {
    let listings = listings(history);
    let examined = listings.len() as u64;
    let mut sweep = Sweep::new(history, &listings);
    CheckReport::new("lists", examined, sweep.run())
}

fn listings(history: &History) -> Vec<Listing<'_>> {
    let mut by_number: BTreeMap<u64, Vec<CallId>> = BTreeMap::new();
    for (id, call) in history.calls.iter().enumerate() {
        if let Operation::ListEntries { listing, .. } = call.op.as_ref() {
            by_number.entry(*listing).or_default().push(id);
        }
    }
    by_number.into_values().filter_map(|pages| whole(history, pages)).collect()
}

/// A listing whose pages all came, none of them stale.
fn whole(history: &History, pages: Vec<CallId>) -> Option<Listing<'_>> {
    let calls: Vec<&Call> = pages.iter().filter_map(|id| history.calls.get(*id)).collect();
    let (begin, end) = (calls.first()?, calls.last()?);
    let is_last = |call: &Call| matches!(call.reply(), Some(Reply::Page(page)) if page.last);
    let Operation::ListEntries { first: true, filter, .. } = begin.op.as_ref() else { return None };
    let is_whole = is_last(end)
        && calls.iter().filter(|call| is_last(call)).count() == 1
        && calls.iter().all(|call| call.reply().is_some() && !call.is_stale());
    let (invoked, ended) = (begin.invoked, end.completed?);
    is_whole.then_some(Listing { filter, pages, invoked, ended })
}

/// What happens at a line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Begin(CallId),
    End(CallId),
    ListBegin(usize),
    ListEnd(usize),
}

struct Sweep<'a> {
    history: &'a History,
    listings: &'a [Listing<'a>],
    lives: HashMap<String, Life>,
    there: BTreeSet<String>,
    below: HashMap<String, BTreeSet<String>>,
    /// Per open listing, the entries that were there when it began.
    began_with: HashMap<usize, Vec<String>>,
}

impl<'a> Sweep<'a> {
    fn new(history: &'a History, listings: &'a [Listing<'a>]) -> Self {
        Self {
            history,
            listings,
            lives: HashMap::new(),
            there: BTreeSet::new(),
            below: HashMap::new(),
            began_with: HashMap::new(),
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        let mut moments: Vec<(u64, Moment)> = Vec::new();
        for (id, call) in self.history.calls.iter().enumerate().filter(|(_, c)| c.op.is_write()) {
            moments.push((call.invoked, Moment::Begin(id)));
            moments.extend(call.completed.map(|line| (line, Moment::End(id))));
        }
        for (number, listing) in self.listings.iter().enumerate() {
            moments.push((listing.invoked, Moment::ListBegin(number)));
            moments.push((listing.ended, Moment::ListEnd(number)));
        }
        moments.sort_unstable();
        for (line, moment) in moments {
            match moment {
                Moment::Begin(id) => self.begin(id),
                Moment::End(id) => self.end(id, line),
                Moment::ListBegin(number) => {
                    self.began_with.insert(number, self.there.iter().cloned().collect());
                }
                Moment::ListEnd(number) => self.check(number)?,
            }
        }
        Ok(())
    }

    fn begin(&mut self, id: CallId) {
        let Some(call) = self.history.calls.get(id) else { return };
        match call.op.as_ref() {
            Operation::CreateEntries(entries) => {
                entries.iter().for_each(|entry| self.may_create(entry));
            }
            Operation::CreateToken(token) => {
                token.alias.iter().for_each(|alias| self.may_create(alias));
            }
            Operation::UpdateEntries(updates) => {
                for update in updates {
                    if update.expires_at_s.is_some_and(|at| at != 0) || update.parent_id.is_some() {
                        // It can expire, or hang below another agent: nothing is sure any more.
                        self.may_remove(&update.id);
                    }
                    self.lives.entry(update.id.clone()).or_default().was_updated = true;
                }
            }
            Operation::DeleteEntries(ids) => ids.iter().for_each(|id| self.may_remove(id)),
            Operation::DeleteAgent { agent_id } => {
                for id in self.below.get(agent_id).cloned().unwrap_or_default() {
                    self.may_remove(&id);
                    // Whether it did is not told.
                    self.lives.entry(id).or_default().removing += 1;
                }
            }
            // Others touch no entry, or only those that can expire, which are never sure.
            Operation::InitCluster { .. }
            | Operation::GetEntry { .. }
            | Operation::ListEntries { .. }
            | Operation::CountEntries
            | Operation::AdmitAgent(_)
            | Operation::SetPendingSerial { .. }
            | Operation::PromoteSerial { .. }
            | Operation::BanAgent { .. }
            | Operation::SetAgentVersion { .. }
            | Operation::GetAgent { .. }
            | Operation::CountAgents
            | Operation::CreateRelationships(_)
            | Operation::UpdateRelationships(_)
            | Operation::DeleteRelationships(_)
            | Operation::GetRelationship { .. }
            | Operation::PruneExpired(_) => {}
        }
    }

    fn may_create(&mut self, entry: &Entry) {
        let life = self.lives.entry(entry.id.clone()).or_default();
        life.was_created = true;
        life.gone = None;
        life.creating += 1;
        self.below.entry(entry.parent_id.clone()).or_default().insert(entry.id.clone());
    }

    fn may_remove(&mut self, id: &str) {
        let life = self.lives.entry(id.to_owned()).or_default();
        life.there = None;
        life.removing += 1;
        self.there.remove(id);
    }

    fn end(&mut self, id: CallId, line: u64) {
        let Some(call) = self.history.calls.get(id) else { return };
        if call.ended() == u64::MAX {
            return;
        }
        match call.op.as_ref() {
            Operation::CreateEntries(entries) => {
                for (place, entry) in entries.iter().enumerate() {
                    let item = item(call, place);
                    let life = self.lives.entry(entry.id.clone()).or_default();
                    life.creating = life.creating.saturating_sub(1);
                    life.create_ended = line;
                    // Another create in flight may be an earlier attempt of this one.
                    if let Some(ItemReply::Created(entry)) = item
                        && life.creating + life.removing == 0
                        && life.remove_ended < call.invoked
                        && entry.expires_at_s == 0
                    {
                        life.there = Some(line);
                        life.entry = Some(std::sync::Arc::clone(entry));
                        self.there.insert(entry.id.clone());
                    }
                }
            }
            Operation::DeleteEntries(ids) => {
                for (place, id) in ids.iter().enumerate() {
                    let item = item(call, place).cloned();
                    let life = self.lives.entry(id.clone()).or_default();
                    life.removing = life.removing.saturating_sub(1);
                    life.remove_ended = line;
                    let is_alone = life.creating + life.removing == 0;
                    if item == Some(ItemReply::Deleted)
                        && is_alone
                        && life.create_ended < call.invoked
                    {
                        life.gone = Some(line);
                    }
                }
            }
            // Aliases and updates are never sure.
            Operation::InitCluster { .. }
            | Operation::UpdateEntries(_)
            | Operation::GetEntry { .. }
            | Operation::ListEntries { .. }
            | Operation::CountEntries
            | Operation::CreateToken(_)
            | Operation::AdmitAgent(_)
            | Operation::SetPendingSerial { .. }
            | Operation::PromoteSerial { .. }
            | Operation::BanAgent { .. }
            | Operation::DeleteAgent { .. }
            | Operation::SetAgentVersion { .. }
            | Operation::GetAgent { .. }
            | Operation::CountAgents
            | Operation::CreateRelationships(_)
            | Operation::UpdateRelationships(_)
            | Operation::DeleteRelationships(_)
            | Operation::GetRelationship { .. }
            | Operation::PruneExpired(_) => {}
        }
    }

    fn check(&mut self, number: usize) -> Result<(), Violation> {
        let Some(listing) = self.listings.get(number) else { return Ok(()) };
        let mut shown: HashMap<&str, u64> = HashMap::new();
        for call in listing.pages.iter().filter_map(|id| self.history.calls.get(*id)) {
            let Some(Reply::Page(page)) = call.reply() else { continue };
            for entry in &page.entries {
                let life = self.lives.get(&entry.id);
                let what = if !life.is_some_and(|life| life.was_created) {
                    "shows an entry that no one created"
                } else if shown.insert(&entry.id, call.line()).is_some() {
                    "shows an entry twice"
                } else if !listing.filter.shows(entry) {
                    "shows an entry that its filter hides"
                } else if let Some(gone) =
                    life.and_then(|life| life.gone).filter(|gone| *gone < listing.invoked)
                {
                    return Err(Violation::new("a list shows a deleted entry")
                        .with(gone, format!("entry {} is deleted", entry.id))
                        .with(listing.invoked, "the list begins")
                        .with(call.line(), format!("{entry:?}")));
                } else {
                    continue;
                };
                return Err(Violation::new(format!("a list {what}"))
                    .with(listing.invoked, "the list begins")
                    .with(call.line(), format!("{entry:?}")));
            }
        }
        for id in self.began_with.remove(&number).unwrap_or_default() {
            let Some(life) = self.lives.get(&id) else { continue };
            let sure = life.there.filter(|there| *there < listing.invoked);
            let passes = listing.filter.is_all()
                || (!life.was_updated
                    && life.entry.as_ref().is_some_and(|entry| listing.filter.shows(entry)));
            if let Some(there) = sure
                && passes
                && !shown.contains_key(id.as_str())
            {
                return Err(Violation::new("a list lacks an entry that was there all the time")
                    .with(there, format!("entry {id} is created"))
                    .with(listing.invoked, "the list begins")
                    .with(listing.ended, "the list ends without it"));
            }
        }
        Ok(())
    }
}

fn item(call: &Call, place: usize) -> Option<&ItemReply> {
    match call.reply() {
        Some(Reply::Items(items)) => items.get(place),
        Some(_) | None => None,
    }
}
