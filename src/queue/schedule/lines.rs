//! Lines: ready tasks of several flows, and whose turn it is. `Pure.`
//!
//! A line gives by class first: transactional mail goes ahead, and leaves every eighth turn to bulk
//! mail. Within a class the tenants take turns, within a tenant its campaigns (or, where none is
//! named, the domains of reverse-paths), within a campaign the destination domains. A turn of a
//! tenant or campaign gives one task. A task that costs more than 1 makes a debt, and for each unit
//! of it a turn is passed over: deficit round robin with a quantum of 1. Debts end with the
//! competition: when the line has no ready task.

use hashbrown::HashTable;

use super::super::slab::{FEW, Slab};
use super::flows::Flows;
use super::list::{Chain, Links, List, NONE};
use super::streams::mix;
use crate::mail::Class;

/// A queue of ready tasks that delivery serves. Never names another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineId {
    slot: u32,
    generation: u32,
}

#[derive(Default)]
pub struct Lines {
    lines: Slab<Line, FEW>,
    turns: Turns,
    by_name: HashTable<u32>,
    next_generation: u32,
}

struct Line {
    generation: u32,
    ready_count: u32,
    /// Turns of the tenants, by class.
    tenants: [List; 2],
    ready_by_class: [u32; 2],
    /// Transactional tasks given since bulk mail had its turn.
    transactional_in_a_row: u8,
    /// It waits to be announced.
    pending: bool,
}

#[derive(Default)]
struct Turns(Slab<Turn, FEW>);

/// The place of a tenant in a line, or of a campaign among those of a tenant.
struct Turn {
    /// Line and class, or the turn of the tenant.
    parent: Parent,
    /// Handle of the tenant, or of the stream.
    name: u32,
    /// Turns to pass over.
    debt: u8,
    links: Links,
    /// Of a tenant the turns of its campaigns, of a campaign its flows.
    members: List,
    ready_count: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Parent {
    Line { line: u32, class: Class },
    Tenant { turn: u32 },
}

impl Lines {
    pub fn open(&mut self) -> LineId {
        self.next_generation += 1;
        let generation = self.next_generation;
        let slot = self.lines.insert(Line {
            generation,
            ready_count: 0,
            tenants: Default::default(),
            ready_by_class: [0; 2],
            transactional_in_a_row: 0,
            pending: false,
        });
        LineId { slot, generation }
    }

    /// Ends a line. Those of its flows that have ready tasks go to `flows_left`.
    pub fn close(&mut self, id: LineId, flows: &mut Flows, flows_left: &mut Vec<u32>) {
        if self.is_open(id) {
            self.clear(id.slot, flows, flows_left);
            self.lines.remove(id.slot);
        }
    }

    pub fn is_open(&self, id: LineId) -> bool {
        self.lines.get(id.slot).is_some_and(|line| line.generation == id.generation)
    }

    pub fn ready_count(&self, id: LineId) -> usize {
        let line = self.lines.get(id.slot).filter(|line| line.generation == id.generation);
        line.map_or(0, |line| line.ready_count as usize)
    }

    /// Notes that the line was announced. Returns whether there is something to take.
    pub fn on_announced(&mut self, id: LineId) -> bool {
        let line = self.lines.get_mut(id.slot).filter(|line| line.generation == id.generation);
        line.is_some_and(|line| {
            line.pending = false;
            line.ready_count > 0
        })
    }

    /// Lets a flow with ready tasks take its turns in an open line. Returns whether the line is
    /// to be announced.
    pub fn enter(&mut self, id: LineId, flows: &mut Flows, flow: u32) -> bool {
        assert_eq!(flows.get(flow).turn, NONE);
        let stream = flows.get(flow).stream;
        let in_line = Parent::Line { line: id.slot, class: flows.streams.class(stream) };
        let (tenant, _) = self.turn(in_line, flows.streams.tenant(stream));
        let (campaign, is_fresh) = self.turn(Parent::Tenant { turn: tenant }, stream);
        if is_fresh {
            // The turn may outlive the flow, and its debt is that of this stream.
            flows.streams.share(stream);
        }
        self.turns.0[campaign].members.push_back(flows, flow);
        flows.get_mut(flow).turn = campaign;
        let ready_count = flows.get(flow).ready_count;
        self.add(campaign, ready_count)
    }

    /// Takes a flow out of its turn, with all its ready tasks.
    pub fn leave(&mut self, flows: &mut Flows, flow: u32) {
        let ready_count = flows.get(flow).ready_count;
        let turn = self.unlink(flows, flow);
        self.subtract(turn, ready_count, flows);
    }

    /// A flow in its turn has one ready task more. Returns whether the line is to be announced.
    pub fn on_ready(&mut self, flows: &Flows, flow: u32) -> bool {
        self.add(flows.get(flow).turn, 1)
    }

    /// A flow in its turn has one ready task less, which was claimed out of turn.
    pub fn on_claimed(&mut self, flows: &mut Flows, flow: u32) {
        let turn = flows.get(flow).turn;
        if flows.get(flow).ready_count == 0 {
            self.unlink(flows, flow);
        }
        self.subtract(turn, 1, flows);
    }

    /// The flow whose turn it is; it gives a task, and `on_taken` follows.
    pub fn next(&mut self, id: LineId, flows: &mut Flows) -> Option<u32> {
        if self.ready_count(id) == 0 {
            return None;
        }
        let line = &mut self.lines[id.slot];
        let [transactional, bulk] = Class::ALL.map(|class| line.ready_by_class[class as usize]);
        let goes_ahead = line.transactional_in_a_row < TRANSACTIONAL_IN_A_ROW_MAX;
        let class = if bulk == 0 || (transactional > 0 && goes_ahead) {
            Class::Transactional
        } else {
            Class::Bulk
        };
        line.transactional_in_a_row = match class {
            Class::Transactional if bulk > 0 => line.transactional_in_a_row + 1,
            Class::Transactional | Class::Bulk => 0,
        };
        let tenant = self.whose_turn(Parent::Line { line: id.slot, class }, flows);
        let campaign = self.whose_turn(Parent::Tenant { turn: tenant }, flows);
        self.turns.0[campaign].members.first()
    }

    /// The flow whose turn it was gave a task that costs `cost`, at least 1: it, its campaign and
    /// its tenant go behind the others.
    pub fn on_taken(&mut self, flows: &mut Flows, flow: u32, cost: u8) {
        let campaign = flows.get(flow).turn;
        if flows.get(flow).ready_count == 0 {
            self.unlink(flows, flow);
        } else {
            self.turns.0[campaign].members.rotate(flows);
        }
        let mut turn = campaign;
        loop {
            self.turns.0[turn].debt = cost - 1;
            let parent = self.turns.0[turn].parent;
            self.rotate(parent);
            let Parent::Tenant { turn: tenant } = parent else { break };
            turn = tenant;
        }
        self.subtract(campaign, 1, flows);
    }

    pub fn bytes(&self) -> usize {
        self.lines.bytes() + self.turns.0.bytes() + self.by_name.allocation_size()
    }

    /// The first of `parent` without a debt. Debts are paid on the way, and who has none and
    /// nothing ready goes. Something below `parent` is ready.
    fn whose_turn(&mut self, parent: Parent, flows: &mut Flows) -> u32 {
        loop {
            let members = *self.members(parent);
            let first = members.first().expect("what is ready stands in a turn");
            let turn = &mut self.turns.0[first];
            if turn.debt > 0 && members.is_single() {
                // Nobody to make way for.
                turn.debt = 0;
            } else if turn.debt > 0 {
                turn.debt -= 1;
                self.rotate(parent);
            } else if turn.ready_count == 0 {
                self.remove(first, flows, &mut Vec::new());
            } else {
                return first;
            }
        }
    }

    /// The turn of `name` below `parent`, and whether it was made for this.
    fn turn(&mut self, parent: Parent, name: u32) -> (u32, bool) {
        let turns = &mut self.turns;
        let same = |slot: &u32| turns.0[*slot].name == name && turns.0[*slot].parent == parent;
        if let Some(slot) = self.by_name.find(hash_of(parent, name), same) {
            return (*slot, false);
        }
        let slot = turns.0.insert(Turn {
            parent,
            name,
            debt: 0,
            links: Links::default(),
            members: List::default(),
            ready_count: 0,
        });
        let hash_of_slot = |slot: &u32| hash_of(turns.0[*slot].parent, turns.0[*slot].name);
        self.by_name.insert_unique(hash_of(parent, name), slot, hash_of_slot);
        let mut members = *self.members(parent);
        members.push_back(&mut self.turns, slot);
        *self.members(parent) = members;
        (slot, true)
    }

    fn members(&mut self, parent: Parent) -> &mut List {
        match parent {
            Parent::Line { line, class } => &mut self.lines[line].tenants[class as usize],
            Parent::Tenant { turn } => &mut self.turns.0[turn].members,
        }
    }

    fn rotate(&mut self, parent: Parent) {
        let mut members = *self.members(parent);
        members.rotate(&mut self.turns);
        *self.members(parent) = members;
    }

    /// Takes a flow out of its turn.
    fn unlink(&mut self, flows: &mut Flows, flow: u32) -> u32 {
        let turn = std::mem::replace(&mut flows.get_mut(flow).turn, NONE);
        self.turns.0[turn].members.remove(flows, flow);
        turn
    }

    /// The tenant of a campaign's turn, the line it is in, and the class.
    fn place_of(&self, campaign: u32) -> (u32, u32, Class) {
        let Parent::Tenant { turn: tenant } = self.turns.0[campaign].parent else {
            panic!("a campaign's turn is below that of its tenant");
        };
        let Parent::Line { line, class } = self.turns.0[tenant].parent else {
            panic!("a tenant's turn is in a line");
        };
        (tenant, line, class)
    }

    /// More ready tasks below a campaign's turn. Returns whether the line is to be announced.
    fn add(&mut self, campaign: u32, count: u32) -> bool {
        let (tenant, line, class) = self.place_of(campaign);
        self.turns.0[campaign].ready_count += count;
        self.turns.0[tenant].ready_count += count;
        let line = &mut self.lines[line];
        line.ready_by_class[class as usize] += count;
        let was_idle = line.ready_count == 0;
        line.ready_count += count;
        was_idle && line.ready_count > 0 && !std::mem::replace(&mut line.pending, true)
    }

    /// Less ready tasks below a campaign's turn. With the last one of the line, all debts end.
    fn subtract(&mut self, campaign: u32, count: u32, flows: &mut Flows) {
        let (tenant, line_slot, class) = self.place_of(campaign);
        self.turns.0[campaign].ready_count -= count;
        self.turns.0[tenant].ready_count -= count;
        let line = &mut self.lines[line_slot];
        line.ready_by_class[class as usize] -= count;
        line.ready_count -= count;
        if line.ready_count == 0 {
            self.clear(line_slot, flows, &mut Vec::new());
        }
    }

    /// Ends all turns of a line. Flows that still stood in one go to `flows_left`.
    fn clear(&mut self, line: u32, flows: &mut Flows, flows_left: &mut Vec<u32>) {
        for class in Class::ALL {
            while let Some(tenant) = self.lines[line].tenants[class as usize].first() {
                self.remove(tenant, flows, flows_left);
            }
        }
        let line = &mut self.lines[line];
        (line.ready_count, line.ready_by_class) = (0, [0; 2]);
        line.transactional_in_a_row = 0;
    }

    /// Removes a turn and what is below it.
    fn remove(&mut self, turn: u32, flows: &mut Flows, flows_left: &mut Vec<u32>) {
        let Turn { parent, name, .. } = self.turns.0[turn];
        while let Some(member) = self.turns.0[turn].members.first() {
            match parent {
                Parent::Line { .. } => self.remove(member, flows, flows_left),
                Parent::Tenant { .. } => {
                    self.unlink(flows, member);
                    flows_left.push(member);
                }
            }
        }
        let mut members = *self.members(parent);
        members.remove(&mut self.turns, turn);
        *self.members(parent) = members;
        self.turns.0.remove(turn);
        let found = self.by_name.find_entry(hash_of(parent, name), |slot| *slot == turn);
        found.expect("a turn can be found").remove();
        if let Parent::Tenant { .. } = parent {
            flows.streams.leave(name);
        }
    }

    #[cfg(test)]
    pub fn turn_count(&self) -> usize {
        self.turns.0.len()
    }
}

impl Chain for Turns {
    fn links(&mut self, slot: u32) -> &mut Links {
        &mut self.0[slot].links
    }
}

fn hash_of(parent: Parent, name: u32) -> u64 {
    let parent = match parent {
        Parent::Line { line, class } => u64::from(line) << 2 | (class as u64) << 1,
        Parent::Tenant { turn } => u64::from(turn) << 2 | 1,
    };
    mix(parent, name.into())
}

/// Turns that transactional mail has before bulk mail has one.
const TRANSACTIONAL_IN_A_ROW_MAX: u8 = 7;
