//! Goal: what was encoded comes back, down to the bits of floats, whatever is in it. Method: properties over arbitrary
//! structures, with values chosen just inside and just outside every form that the wire treats specially.

mod support;

use fieldsync_core::delta::Delta;
use fieldsync_core::enrolment::MacKey;
use fieldsync_core::limits::Limits;
use fieldsync_core::reply::Reply;
use fieldsync_core::wire::{self, DeltaWriter, PackedRows, Shape, Shapes};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deltas_come_back(delta in support::deltas(), signed in any::<bool>(), some_known in any::<u8>()) {
        let key = MacKey([7; 32]);
        let key = signed.then_some(&key);
        let (blob, batch) = wire::encode_delta(&delta, key);
        let back = wire::decode_delta(&blob, key, &Limits::default()).unwrap();
        prop_assert_eq!(&back, &delta);
        prop_assert_eq!(support::delta_bits(&back), support::delta_bits(&delta));
        prop_assert_eq!(wire::peek(&blob).unwrap().batch, batch);

        let known = delta.body.tables.iter().enumerate().filter(|(at, _)| some_known >> at & 1 == 1);
        let known: Shapes = known.map(|(_, table)| Shape::of_changes(table)).collect();
        let (blob, batch) = wire::encode_delta_for(&delta, key, &known);
        let mut writer = DeltaWriter::begin(&delta, &known);
        for table in &delta.body.tables {
            writer.table(Shape::of_changes(table));
            table.changes.iter().cloned().for_each(|change| writer.change(change));
        }
        prop_assert_eq!(writer.finish(delta.body.high, key), (blob.clone(), batch));
        prop_assert_eq!(wire::decode_delta_with(&blob, key, &Limits::default(), &known).unwrap(), delta);
    }

    #[test]
    fn replies_come_back(reply in support::replies(), signed in any::<bool>(), some_known in any::<u8>()) {
        let key = MacKey([7; 32]);
        let key = signed.then_some(&key);
        let blob = wire::encode_reply(&reply, key);
        let back = wire::decode_reply(&blob, key, &Limits::default()).unwrap();
        prop_assert_eq!(&back, &reply);
        prop_assert_eq!(support::reply_bits(&back), support::reply_bits(&reply));

        let known = reply.body.tables.iter().enumerate().filter(|(at, _)| some_known >> at & 1 == 1);
        let known: Shapes = known.map(|(_, table)| Shape::of_rows(table)).collect();
        let blob = wire::encode_reply_for(&reply, key, &known);
        let packed = reply.body.tables.iter().map(|table| {
            let mut rows = PackedRows::default();
            table.rows.iter().cloned().for_each(|row| rows.push(row));
            (Shape::of_rows(table), rows)
        });
        prop_assert_eq!(&wire::encode_packed_reply(&reply, packed.collect(), key, &known), &blob);
        prop_assert_eq!(wire::decode_reply_with(&blob, key, &Limits::default(), &known).unwrap(), reply);
    }
}

#[test]
fn nothing_at_all_comes_back() {
    let blob = wire::encode_delta(&Delta::default(), None).0;
    assert_eq!(wire::decode_delta(&blob, None, &Limits::default()).unwrap(), Delta::default());
    let blob = wire::encode_reply(&Reply::default(), None);
    assert_eq!(wire::decode_reply(&blob, None, &Limits::default()).unwrap(), Reply::default());
}
