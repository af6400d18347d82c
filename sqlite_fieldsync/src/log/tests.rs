//! Places and clocks, over random histories of a wall clock that nobody should trust.

use super::*;
use fieldsync_core::Hlc;

const TODAY: f64 = 2_461_000.5;

/// A log as the triggers, exports and applies of a device would leave it: marks, and entries with times of day.
struct History {
    db: Connection,
    state: u64,
}

impl History {
    fn new(seed: u64) -> History {
        let db = Connection::open_in_memory().unwrap();
        crate::register(&db).unwrap();
        db.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, v); SELECT fs_init('one'); SELECT fs_track('t')")
            .unwrap();
        History { db, state: seed * 2 + 1 }
    }

    fn below(&mut self, most: u64) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % most
    }

    /// Entries as triggers put them, at times that jump.
    fn write(&mut self, count: u64) {
        let mut at = TODAY + self.below(1000) as f64 / 86_400_000.0;
        for _ in 0..count {
            at = match self.below(8) {
                0 => TODAY + 30.0 * 365.25,       // thirty years ahead
                1 => TODAY - 60.0 * 365.25,       // 1970
                2 | 3 => at + 1.0 / 86_400_000.0, // the next millisecond
                _ => at,                          // the same one
            };
            self.db.execute("INSERT INTO fs_log(what, key, at) VALUES (9, 1, ?1)", [at]).unwrap();
        }
    }

    fn mark(&mut self) {
        let shown = match self.below(3) {
            0 => Hlc::from_ms(1_795_000_000_000 + self.below(1_000_000)),
            _ => Hlc::default(),
        };
        mark(&self.db, last(&self.db).unwrap(), shown).unwrap();
    }

    fn run(&mut self) {
        for _ in 0..12 {
            let count = self.below(6);
            self.write(count);
            if self.below(2) == 0 {
                self.mark();
            }
        }
    }

    /// Every entry, marks too.
    fn positions(&self) -> Vec<(Position, bool)> {
        let mut statement = self.db.prepare("SELECT clock, what = 0 FROM fs_log ORDER BY clock").unwrap();
        let places: Vec<(i64, bool)> =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(|row| row.unwrap()).collect();
        places
            .into_iter()
            .map(|(place, is_mark)| {
                let position = before(&self.db, place + 1).unwrap();
                assert_eq!(position.place, place);
                (position, is_mark)
            })
            .collect()
    }

    /// The clocks of changes, by their places, as a scan gives them.
    fn clocks(&self, after: Position) -> Vec<(i64, Hlc)> {
        let tables = LogTable::all(&self.db).unwrap();
        let read = read(&self.db, &tables, after).unwrap();
        read.into_iter().map(|entry| (entry.place, entry.logged.clock)).collect()
    }
}

#[test]
fn places_and_clocks_only_grow_and_marks_compare_with_both() {
    for seed in 0..60 {
        let mut history = History::new(seed);
        history.run();
        let positions = history.positions();
        assert!(positions.windows(2).all(|pair| pair[0].0.clock < pair[1].0.clock), "{positions:?}");
        assert!(positions.iter().all(|(position, _)| position.clock >= Hlc::from_i64(position.place)));
        for (mark, _) in positions.iter().filter(|(_, is_mark)| *is_mark) {
            assert_eq!(mark.clock, Hlc::from_i64(mark.place));
            for (entry, _) in &positions {
                assert_eq!(mark.place < entry.place, mark.clock < entry.clock, "{mark:?} {entry:?}");
            }
        }
    }
}

#[test]
fn a_clock_is_the_same_from_wherever_it_is_read() {
    for seed in 0..60 {
        let mut history = History::new(seed);
        history.run();
        let whole = history.clocks(Position::default());
        for (position, _) in history.positions() {
            let rest: Vec<_> = whole.iter().filter(|(place, _)| *place > position.place).copied().collect();
            assert_eq!(history.clocks(position), rest);
            assert_eq!(place_of(&history.db, position.clock).unwrap(), position.place);
            assert!(place_of(&history.db, Hlc(position.clock.0 - 1)).unwrap() < position.place);
        }
        assert_eq!(last(&history.db).unwrap(), history.positions().last().unwrap().0);
    }
}

#[test]
fn clocks_stay_when_others_go() {
    for seed in 0..60 {
        let mut history = History::new(seed);
        history.run();
        let whole = history.clocks(Position::default());
        // A person deletes answered entries one by one; time and place of each stay behind.
        let (end, _) = *history.positions().last().unwrap();
        crate::state::set_watermark(&history.db, end.clock, end.place).unwrap();
        let gone = history.below(whole.len() as u64 + 1) as usize;
        for (place, _) in whole.iter().take(gone) {
            history.db.execute("DELETE FROM sync_queue WHERE queue_id = ?1", [place]).unwrap();
        }
        assert_eq!(history.clocks(Position::default()), whole[gone..]);
        // The purge takes whole runs, none of it later than what it was told.
        let until = history.positions()[history.positions().len() / 2].0;
        crate::purge::purge(&history.db, until.clock).unwrap();
        let left = history.clocks(Position::default());
        assert!(whole.ends_with(&left));
        assert!(left.len() >= whole[gone..].iter().filter(|(place, _)| *place > until.place).count());
        let first: i64 =
            history.db.query_row("SELECT what FROM fs_log ORDER BY clock LIMIT 1", [], |row| row.get(0)).unwrap();
        assert_eq!(first, 0, "the log begins with a mark");
        let before = last(&history.db).unwrap();
        history.write(3);
        assert!(history.clocks(before).iter().all(|(_, clock)| *clock > before.clock));
    }
}
