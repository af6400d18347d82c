//! What befalls devices and hub: crashes, copies, backups, lost names, and persons who settle things meanwhile.

use super::{fail, Finding, Phone, World};
use crate::hub::Hub;
use crate::orders;
use fieldsync_core::wire::Shapes;

impl World {
    /// A person drops what was rejected, while the devices don't look.
    pub(super) fn settle(&mut self) {
        // A sync under way holds the entries that it writes.
        if self.hub.running.values().all(|running| running.client.is_none()) {
            let dropped = self.hub.drop_rejections();
            self.trace(|| format!("{dropped} rejections are dropped"));
        }
    }

    /// Copies of the hub and a phone get the same letters in other orders.
    pub(super) fn orders(&mut self, phone: usize, most: usize) -> Result<(), Finding> {
        let wall = self.wall(phone);
        match orders::of_one_device(&self.hub, &self.phones[phone].file, most, wall, self.now_ms) {
            Ok(compared) => self.figures.orders += compared,
            Err(what) => return fail(format!("phone {phone}: {what}")),
        }
        Ok(())
    }

    /// What either end kept of the other's names is gone: a damaged table, a careless operator.
    pub(super) fn lose_shapes(&mut self, phone: usize, which: u8) {
        let tag = self.phones[phone].file.tag();
        if which == 0 {
            self.phones[phone].file.reply_shapes = Shapes::none();
        } else if let Some(client) = self.hub.clients.get_mut(&tag) {
            if which == 1 {
                client.delta_shapes = Shapes::none();
            } else {
                client.knows = Shapes::none();
            }
        }
        self.trace(|| format!("shapes of phone {phone} are lost ({which})"));
    }

    pub(super) fn copy(&mut self, phone: usize) {
        if self.phones.len() > 5 {
            return;
        }
        let file = self.phones[phone].file.clone();
        // What waits in both files counts once; which of the two tells first is open.
        self.stock_exact &= file.pending() == 0;
        self.trace(|| format!("phone {phone} is copied to {}", self.phones.len()));
        let cursor = file.cursor.clone();
        self.phones.push(Phone { file, backup: None, offset_ms: 0, cursor });
    }

    pub(super) fn restore(&mut self, phone: usize) {
        if let Some(backup) = self.phones[phone].backup.take() {
            self.trace(|| format!("phone {phone} is restored"));
            self.stock_exact = false;
            self.phones[phone].cursor = backup.cursor.clone();
            self.phones[phone].file = backup;
            // What was edited since is gone with the phone.
            self.last_edits.retain(|(editor, _, _), _| *editor != phone);
        }
    }

    pub(super) fn restore_hub(&mut self, noticed: Option<u32>) {
        let Some(backup) = self.hub_backup.take() else { return };
        let migrated = self.hub.width;
        self.hub = Hub::restored_from(&backup);
        // Its operator brings the schema up to date first.
        self.hub.width = migrated;
        // A dump, another server, a promotion: the hub sees that by itself. A disk put back under it shows only by what
        // devices have seen, and not where a blob of the lost days comes late: its answer hides what its device saw.
        match noticed {
            Some(epochs) => self.hub.epoch += epochs,
            None => {
                self.network.clear();
                self.archive.clear();
            }
        }
        self.trace(|| format!("the hub is restored, noticed by itself: {}", noticed.is_some()));
        self.syncs_open.clear();
        self.writers_open.clear();
        for phone in &mut self.phones {
            phone.cursor = None;
        }
    }
}
