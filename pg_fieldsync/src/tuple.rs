//! Tuples as the row trigger sees them: taken apart, compared and put together again.
//!
//! Invariant: fields are compared by their stored images; nothing is fetched from TOAST that is there unchanged.

use pgrx::pg_sys;

/// A field of a tracked table, as tuples have it.
#[derive(Clone, Copy)]
pub struct Field {
    /// Its place in the tuple.
    pub at: usize,
    /// Its number.
    pub number: u16,
    /// Whether it is passed by value.
    pub by_value: bool,
    /// Its fixed length; -1: a varlena, -2: a C string.
    pub length: i16,
}

/// The attributes of a descriptor, dropped ones too.
///
/// # Safety
/// The descriptor is valid, and outlives what is done with them.
#[cfg(not(feature = "pg18"))]
pub unsafe fn attributes<'a>(descriptor: pg_sys::TupleDesc) -> &'a [pg_sys::FormData_pg_attribute] {
    // SAFETY: a valid descriptor has natts attributes.
    unsafe { (*descriptor).attrs.as_slice((*descriptor).natts as usize) }
}

/// The attributes of a descriptor, dropped ones too. Since Postgres 18 they stand behind the compact ones (`TupleDescAttr` in
/// tupdesc.h).
///
/// # Safety
/// The descriptor is valid, and outlives what is done with them.
#[cfg(feature = "pg18")]
pub unsafe fn attributes<'a>(descriptor: pg_sys::TupleDesc) -> &'a [pg_sys::FormData_pg_attribute] {
    // SAFETY: a valid descriptor has natts compact attributes, and as many whole ones behind them.
    unsafe {
        let count = (*descriptor).natts as usize;
        std::slice::from_raw_parts((*descriptor).compact_attrs.as_ptr().add(count).cast(), count)
    }
}

/// A tuple taken apart.
pub struct Row {
    /// Its values.
    pub values: Vec<pg_sys::Datum>,
    /// Which of them are NULL.
    pub nulls: Vec<bool>,
}

impl Row {
    /// Takes a tuple apart.
    ///
    /// # Safety
    /// The tuple is of this relation.
    pub unsafe fn of(tuple: pg_sys::HeapTuple, relation: pg_sys::Relation) -> Row {
        // SAFETY: the arrays have the descriptor's width.
        unsafe {
            let descriptor = (*relation).rd_att;
            let width = (*descriptor).natts as usize;
            let mut values: Vec<pg_sys::Datum> = Vec::with_capacity(width);
            let mut nulls: Vec<bool> = Vec::with_capacity(width);
            pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            values.set_len(width);
            nulls.set_len(width);
            Row { values, nulls }
        }
    }

    /// The tuple with these values, in the place of `like`.
    ///
    /// # Safety
    /// The values fit the relation's descriptor.
    pub unsafe fn form(&mut self, relation: pg_sys::Relation, like: pg_sys::HeapTuple) -> pg_sys::HeapTuple {
        // SAFETY: as promised; identity is copied as heap_modify_tuple does.
        unsafe {
            let tuple = pg_sys::heap_form_tuple((*relation).rd_att, self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
            (*(*tuple).t_data).t_ctid = (*(*like).t_data).t_ctid;
            (*tuple).t_self = (*like).t_self;
            (*tuple).t_tableOid = (*like).t_tableOid;
            tuple
        }
    }

    /// Sets a value that is not NULL.
    pub fn set(&mut self, at: usize, datum: pg_sys::Datum) {
        self.values[at] = datum;
        self.nulls[at] = false;
    }

    /// Whether a truth value is there and true.
    pub fn is_true(&self, at: usize) -> bool {
        !self.nulls[at] && self.values[at].value() as u8 != 0
    }

    /// A bytea.
    ///
    /// # Safety
    /// The attribute is a varlena.
    pub unsafe fn bytes(&self, at: usize) -> Option<Vec<u8>> {
        if self.nulls[at] {
            return None;
        }
        // SAFETY: as promised.
        unsafe {
            let plain = pg_sys::pg_detoast_datum_packed(self.values[at].cast_mut_ptr());
            Some(pgrx::varlena::varlena_to_byte_slice(plain).to_vec())
        }
    }
}

/// Whether a field's stored image differs.
pub fn differs(field: Field, old: &Row, new: &Row) -> bool {
    let at = field.at;
    if old.nulls[at] || new.nulls[at] {
        return old.nulls[at] != new.nulls[at];
    }
    if field.by_value {
        return old.values[at].value() != new.values[at].value();
    }
    // SAFETY: both are non-null values of the field's type.
    unsafe {
        let (one, other) = (old.values[at].cast_mut_ptr::<u8>(), new.values[at].cast_mut_ptr::<u8>());
        if one == other {
            return false;
        }
        if field.length > 0 {
            let length = field.length as usize;
            return std::slice::from_raw_parts(one, length) != std::slice::from_raw_parts(other, length);
        }
        if field.length == -2 {
            return std::ffi::CStr::from_ptr(one.cast()) != std::ffi::CStr::from_ptr(other.cast());
        }
        let (one, other) = (one.cast::<pg_sys::varlena>(), other.cast::<pg_sys::varlena>());
        let stored = |pointer: *mut pg_sys::varlena| {
            std::slice::from_raw_parts(pointer.cast::<u8>(), pgrx::varlena::varsize_any(pointer))
        };
        // The same bytes, or the same pointer into TOAST, are the same value; no need to fetch it.
        if stored(one) == stored(other) {
            return false;
        }
        let (plain_one, plain_other) = (pg_sys::pg_detoast_datum_packed(one), pg_sys::pg_detoast_datum_packed(other));
        let differ =
            pgrx::varlena::varlena_to_byte_slice(plain_one) != pgrx::varlena::varlena_to_byte_slice(plain_other);
        if plain_one != one {
            pg_sys::pfree(plain_one.cast());
        }
        if plain_other != other {
            pg_sys::pfree(plain_other.cast());
        }
        differ
    }
}
