//! Postgres values to wire values and back.
//!
//! Invariant: a wire value depends on the stored value alone, never on a session's settings. Common types are read
//! straight from their datums; the rest go through their own output functions with the settings of
//! [`Settings::for_text`] pinned.

use crate::catch::SqlError;
use crate::guards::Settings;
use crate::instants::{instant_text, is_canonical_instant};
use crate::tuple;
use fieldsync_core::value::Kind;
use fieldsync_core::Value;
use pgrx::pg_sys;
use std::ffi::CStr;

/// How a column's datums are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bool,
    Int2,
    Int4,
    Int8,
    Unsigned4,
    Unsigned8,
    Real4,
    Real8,
    Text,
    Bytes,
    Uuid,
    Instant,
    Name,
    /// As JSON.
    Array,
    /// By the output function; `true` if settings matter to it.
    Output(pg_sys::Oid, bool),
}

impl Form {
    fn needs_settings(self) -> bool {
        matches!(self, Form::Array | Form::Output(_, true))
    }
}

/// `pg_catalog.array_to_json(anyarray)`.
const ARRAY_TO_JSON: pg_sys::Oid = pg_sys::Oid::from_u32(3153);

fn form(type_oid: pg_sys::Oid) -> Form {
    // SAFETY: catalogue lookups of an existing type.
    let base = unsafe { pg_sys::getBaseType(type_oid) };
    match base {
        pg_sys::BOOLOID => Form::Bool,
        pg_sys::INT2OID => Form::Int2,
        pg_sys::INT4OID => Form::Int4,
        pg_sys::INT8OID => Form::Int8,
        pg_sys::OIDOID | pg_sys::REGCLASSOID | pg_sys::XIDOID => Form::Unsigned4,
        pg_sys::XID8OID => Form::Unsigned8,
        pg_sys::FLOAT4OID => Form::Real4,
        pg_sys::FLOAT8OID => Form::Real8,
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::JSONOID => Form::Text,
        pg_sys::BYTEAOID => Form::Bytes,
        pg_sys::UUIDOID => Form::Uuid,
        pg_sys::TIMESTAMPTZOID => Form::Instant,
        pg_sys::NAMEOID => Form::Name,
        _ if kind(base) == Kind::Array => Form::Array,
        _ => {
            let mut output = pg_sys::Oid::INVALID;
            let mut is_varlena = false;
            // SAFETY: both pointers are valid for the call.
            unsafe { pg_sys::getTypeOutputInfo(base, &mut output, &mut is_varlena) };
            let plain = matches!(base, pg_sys::NUMERICOID | pg_sys::JSONBOID | pg_sys::INETOID | pg_sys::CIDROID)
                // SAFETY: catalogue lookup.
                || unsafe { pg_sys::get_typtype(base) } as u8 == pg_sys::TYPTYPE_ENUM;
            Form::Output(output, !plain)
        }
    }
}

/// Reads tuples of one shape.
pub struct Decoder {
    descriptor: pg_sys::TupleDesc,
    forms: Vec<Form>,
    dropped: Vec<bool>,
}

impl Decoder {
    /// For tuples of this descriptor, which must outlive the decoder.
    pub fn new(descriptor: pg_sys::TupleDesc) -> Decoder {
        // SAFETY: the descriptor is valid, as the caller promises.
        let attributes = unsafe { tuple::attributes(descriptor) };
        Decoder {
            descriptor,
            forms: attributes
                .iter()
                .map(|attribute| if attribute.attisdropped { Form::Bool } else { form(attribute.atttypid) })
                .collect(),
            dropped: attributes.iter().map(|attribute| attribute.attisdropped).collect(),
        }
    }

    /// All cells of all tuples.
    pub fn rows(&self, tuples: &[pg_sys::HeapTuple]) -> Result<Vec<Vec<Value>>, SqlError> {
        let needs_settings = self.forms.iter().any(|form| form.needs_settings());
        let _settings = (needs_settings && !tuples.is_empty()).then(Settings::for_text);
        let width = self.forms.len();
        let mut values = vec![pg_sys::Datum::null(); width];
        let mut nulls = vec![false; width];
        let mut rows = Vec::with_capacity(tuples.len());
        for tuple in tuples {
            // SAFETY: the arrays have the descriptor's width.
            unsafe {
                pg_sys::heap_deform_tuple(*tuple, self.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
            let mut row = Vec::with_capacity(width);
            for at in 0..width {
                row.push(if nulls[at] || self.dropped[at] {
                    Value::Null
                } else {
                    // SAFETY: a non-null datum of the type that the form was made for.
                    unsafe { read(self.forms[at], values[at]) }
                });
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

/// A reader for single datums of one type: the row trigger's keys.
#[derive(Debug, Clone, Copy)]
pub struct Reader(Form);

impl Reader {
    /// For a type.
    pub fn new(type_oid: pg_sys::Oid) -> Reader {
        Reader(form(type_oid))
    }

    /// The wire value of a datum.
    ///
    /// # Safety
    /// The datum is of that type and not NULL.
    pub unsafe fn read(&self, datum: pg_sys::Datum) -> Value {
        let _settings = self.0.needs_settings().then(Settings::for_text);
        // SAFETY: as promised by the caller.
        unsafe { read(self.0, datum) }
    }
}

/// # Safety
/// The datum is of the type that the form was made for.
unsafe fn read(form: Form, datum: pg_sys::Datum) -> Value {
    let word = datum.value() as u64;
    // SAFETY: by-reference forms point to values of their type.
    unsafe {
        match form {
            Form::Bool => Value::Int(i64::from(word as u8 != 0)),
            Form::Int2 => Value::Int(i64::from(word as i16)),
            Form::Int4 => Value::Int(i64::from(word as i32)),
            Form::Int8 => Value::Int(word as i64),
            Form::Unsigned4 => Value::Int(i64::from(word as u32)),
            Form::Unsigned8 => Value::Int(word as i64),
            Form::Real4 => real(f64::from(f32::from_bits(word as u32))),
            Form::Real8 => real(f64::from_bits(word)),
            Form::Text => with_varlena(datum, |bytes| Value::Text(String::from_utf8_lossy(bytes).into_owned())),
            Form::Bytes => with_varlena(datum, |bytes| Value::Blob(bytes.to_vec())),
            Form::Uuid => Value::Blob(std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), 16).to_vec()),
            Form::Instant => Value::Text(instant_text(word as i64)),
            Form::Name => Value::Text(CStr::from_ptr(datum.cast_mut_ptr()).to_string_lossy().into_owned()),
            Form::Array => {
                let json = pg_sys::OidFunctionCall1Coll(ARRAY_TO_JSON, pg_sys::Oid::INVALID, datum);
                let value = with_varlena(json, |bytes| Value::Text(String::from_utf8_lossy(bytes).into_owned()));
                pg_sys::pfree(json.cast_mut_ptr());
                value
            }
            Form::Output(function, _) => {
                let text = pg_sys::OidOutputFunctionCall(function, datum);
                let value = Value::Text(CStr::from_ptr(text).to_string_lossy().into_owned());
                pg_sys::pfree(text.cast());
                value
            }
        }
    }
}

/// A float as SQLite holds it: NaN is text there.
fn real(number: f64) -> Value {
    if number.is_nan() {
        Value::Text("NaN".to_owned())
    } else {
        Value::Real(number)
    }
}

/// # Safety
/// The datum is a varlena.
unsafe fn with_varlena(datum: pg_sys::Datum, read: impl FnOnce(&[u8]) -> Value) -> Value {
    // SAFETY: detoasting gives the same pointer or a fresh copy, which is freed here.
    unsafe {
        let original = datum.cast_mut_ptr::<pg_sys::varlena>();
        let plain = pg_sys::pg_detoast_datum_packed(original);
        let value = read(pgrx::varlena::varlena_to_byte_slice(plain));
        if plain != original {
            pg_sys::pfree(plain.cast());
        }
        value
    }
}

/// Lower-case text of a uuid.
pub fn uuid_text(bytes: &[u8]) -> String {
    let digits = fieldsync_core::value::hex(bytes);
    if digits.len() != 32 {
        return digits;
    }
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

fn uuid_bytes(text: &str) -> Option<Vec<u8>> {
    let trimmed = text.trim().trim_start_matches('{').trim_end_matches('}');
    let digits: Vec<u8> = trimmed.bytes().filter(|byte| *byte != b'-').collect();
    if digits.len() != 32 {
        return None;
    }
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// What a column's type means to the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnType {
    /// The base type (domains go by theirs).
    pub base: pg_sys::Oid,
    /// The column's or the domain's type modifier; -1 for none.
    pub typmod: i32,
    /// What a device needs to know.
    pub kind: Kind,
    /// The base type without modifier, qualified, as SQL writes it.
    pub sql: String,
    /// The base type with its modifier, as SQL writes it.
    pub sql_with_modifier: String,
}

/// The kind of a base type.
pub fn kind(base: pg_sys::Oid) -> Kind {
    match base {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::OIDOID => Kind::Int,
        pg_sys::FLOAT4OID | pg_sys::FLOAT8OID => Kind::Real,
        pg_sys::NUMERICOID => Kind::Numeric,
        pg_sys::BOOLOID => Kind::Bool,
        pg_sys::TIMESTAMPTZOID => Kind::Instant,
        pg_sys::UUIDOID => Kind::Uuid,
        pg_sys::BYTEAOID => Kind::Bytes,
        pg_sys::JSONOID => Kind::Json,
        pg_sys::JSONBOID => Kind::Jsonb,
        // SAFETY: catalogue lookup of an existing type.
        other if unsafe { pg_sys::get_element_type(other) } != pg_sys::Oid::INVALID => Kind::Array,
        _ => Kind::Text,
    }
}

/// A value from a device, on its way into a column's own form.
#[derive(Debug, Clone, PartialEq)]
pub enum Canonical {
    /// In the hub's form already.
    Done(Value),
    /// Postgres has to read it: the text for the type's input.
    Ask(String),
    /// No value of this type.
    Bad(SqlError),
}

fn bad(sqlstate: &str, type_name: &str, value: &Value) -> Canonical {
    let mut shown = value.to_text();
    if shown.chars().count() > 60 {
        shown = shown.chars().take(60).collect::<String>() + "…";
    }
    let what = if sqlstate == "22003" { "out of range for type" } else { "not a value of type" };
    Canonical::Bad(SqlError::new(sqlstate, format!("\"{shown}\" is {what} {type_name}")))
}

impl ColumnType {
    /// Brings a device's value into the hub's form, as far as that needs no Postgres.
    pub fn canonical(&self, value: &Value) -> Canonical {
        if value.is_null() {
            return Canonical::Done(Value::Null);
        }
        match self.kind {
            Kind::Int => self.canonical_int(value),
            Kind::Bool => match value {
                Value::Int(number @ (0 | 1)) => Canonical::Done(Value::Int(*number)),
                Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                    "t" | "true" | "1" | "yes" | "y" | "on" => Canonical::Done(Value::Int(1)),
                    "f" | "false" | "0" | "no" | "n" | "off" => Canonical::Done(Value::Int(0)),
                    _ => bad("22P02", "boolean", value),
                },
                _ => bad("22P02", "boolean", value),
            },
            Kind::Real => {
                let number = match value {
                    Value::Real(number) => *number,
                    Value::Int(number) => *number as f64,
                    Value::Text(text) if text.trim().eq_ignore_ascii_case("nan") => {
                        return Canonical::Done(Value::Text("NaN".to_owned()))
                    }
                    Value::Text(text) => match text.trim().parse::<f64>() {
                        Ok(number) => number,
                        Err(_) => return bad("22P02", &self.sql, value),
                    },
                    _ => return bad("22P02", &self.sql, value),
                };
                if self.base == pg_sys::FLOAT4OID {
                    let narrow = number as f32;
                    if narrow.is_infinite() && number.is_finite() {
                        return bad("22003", &self.sql, value);
                    }
                    return Canonical::Done(real(f64::from(narrow)));
                }
                Canonical::Done(real(number))
            }
            Kind::Uuid => {
                let bytes = match value {
                    Value::Blob(bytes) if bytes.len() == 16 => Some(bytes.clone()),
                    Value::Text(text) => uuid_bytes(text),
                    _ => None,
                };
                bytes.map_or_else(|| bad("22P02", "uuid", value), |bytes| Canonical::Done(Value::Blob(bytes)))
            }
            Kind::Bytes => Canonical::Done(match value {
                Value::Blob(bytes) => Value::Blob(bytes.clone()),
                other => Value::Blob(other.to_text().into_bytes()),
            }),
            Kind::Instant | Kind::Numeric | Kind::Jsonb | Kind::Array | Kind::Text | Kind::Json => {
                self.canonical_text(value)
            }
        }
    }

    /// Whether this is a `timestamptz` whose values are stored as given.
    pub fn is_plain_instant(&self) -> bool {
        self.base == pg_sys::TIMESTAMPTZOID && self.typmod < 0
    }

    /// Whether the value has the hub's form already: then [`ColumnType::canonical`] would only copy it.
    pub fn holds(&self, value: &Value) -> bool {
        match (self.kind, value) {
            (_, Value::Null) => true,
            (Kind::Int, Value::Int(number)) => match self.base {
                pg_sys::INT8OID => true,
                pg_sys::INT4OID => i32::try_from(*number).is_ok(),
                pg_sys::INT2OID => i16::try_from(*number).is_ok(),
                _ => false,
            },
            (Kind::Real, Value::Real(_)) => self.base == pg_sys::FLOAT8OID,
            (Kind::Uuid, Value::Blob(bytes)) => bytes.len() == 16,
            (Kind::Bytes, Value::Blob(_)) => true,
            (Kind::Text | Kind::Json, Value::Text(text)) => {
                matches!(self.base, pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::JSONOID)
                    && !text.contains('\0')
                    && self.without_spaces_too_many(text).is_none()
            }
            (Kind::Instant, Value::Text(text)) => {
                self.base == pg_sys::TIMESTAMPTZOID && self.typmod < 0 && is_canonical_instant(text)
            }
            _ => false,
        }
    }

    /// The text as `varchar(n)` stores it, where it ends in spaces that have no room.
    fn without_spaces_too_many<'t>(&self, text: &'t str) -> Option<&'t str> {
        let width = usize::try_from(self.typmod - 4).ok().filter(|width| text.len() > *width)?;
        if self.base != pg_sys::VARCHAROID {
            return None;
        }
        let (end, _) = text.char_indices().nth(width)?;
        text[end..].bytes().all(|byte| byte == b' ').then(|| &text[..end])
    }

    fn canonical_int(&self, value: &Value) -> Canonical {
        let number = match value {
            Value::Int(number) => *number,
            // A REAL column of a device may hold what was a whole number.
            Value::Real(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => *number as i64,
            Value::Real(_) => return bad("22P02", &self.sql, value),
            Value::Text(text) => match text.trim().parse::<i64>() {
                Ok(number) => number,
                Err(_) => return bad("22P02", &self.sql, value),
            },
            _ => return bad("22P02", &self.sql, value),
        };
        let fits = match self.base {
            pg_sys::INT2OID => i16::try_from(number).is_ok(),
            pg_sys::INT4OID => i32::try_from(number).is_ok(),
            pg_sys::OIDOID => u32::try_from(number).is_ok(),
            _ => true,
        };
        if fits {
            Canonical::Done(Value::Int(number))
        } else {
            bad("22003", &self.sql, value)
        }
    }

    fn canonical_text(&self, value: &Value) -> Canonical {
        let text = match value {
            Value::Text(text) => text.clone(),
            Value::Int(number) => number.to_string(),
            Value::Real(number) if self.kind == Kind::Numeric => format!("{number}"),
            Value::Real(number) => format!("{number:?}"),
            Value::Blob(bytes) => match String::from_utf8(bytes.clone()) {
                Ok(text) => text,
                Err(_) => return bad("22021", &self.sql, value),
            },
            Value::Null => return Canonical::Done(Value::Null),
        };
        if text.contains('\0') {
            return Canonical::Bad(SqlError::new("22021", "text with a NUL character cannot be stored in Postgres"));
        }
        match self.base {
            // char(n) is padded, as its own output shows it; n counts characters.
            pg_sys::BPCHAROID if self.typmod > 4 => {
                let width = (self.typmod - 4) as usize;
                let trimmed = text.trim_end_matches(' ');
                let length = trimmed.chars().count();
                if length > width {
                    return Canonical::Bad(SqlError::new(
                        "22001",
                        format!("value too long for type character({width})"),
                    ));
                }
                Canonical::Done(Value::Text(format!("{trimmed}{}", " ".repeat(width - length))))
            }
            pg_sys::BPCHAROID => Canonical::Done(Value::Text(text)),
            pg_sys::BITOID if self.typmod > 0 && text.len() != self.typmod as usize => Canonical::Bad(SqlError::new(
                "22026",
                format!("bit string length {} does not match type bit({})", text.len(), self.typmod),
            )),
            pg_sys::VARBITOID if self.typmod > 0 && text.len() > self.typmod as usize => Canonical::Bad(SqlError::new(
                "22001",
                format!("bit string too long for type bit varying({})", self.typmod),
            )),
            // Stored as given, but for spaces too many; a text that is too long is refused by the write itself.
            pg_sys::VARCHAROID => {
                let shorter = self.without_spaces_too_many(&text).map(str::to_owned);
                Canonical::Done(Value::Text(shorter.unwrap_or(text)))
            }
            pg_sys::TEXTOID | pg_sys::JSONOID => Canonical::Done(Value::Text(text)),
            pg_sys::TIMESTAMPTZOID if self.typmod < 0 && is_canonical_instant(&text) => {
                Canonical::Done(Value::Text(text))
            }
            _ => Canonical::Ask(text),
        }
    }
}

impl ColumnType {
    /// SQL that reads a wire text into this type. `modified`: with the column's modifier, as a stored value would have it.
    pub fn text_to_sql(&self, text: &str, modified: bool) -> String {
        let name = if modified { &self.sql_with_modifier } else { &self.sql };
        match self.kind {
            // Arrays travel as JSON; json_to_record reads any number of dimensions. Postgres' own text form is taken too.
            Kind::Array => format!(
                "(SELECT r.v FROM pg_catalog.json_to_record(pg_catalog.json_build_object('v', \
                 CASE WHEN pg_catalog.left(pg_catalog.btrim({text}), 1) OPERATOR(pg_catalog.=) '[' \
                 THEN {text}::pg_catalog.json ELSE pg_catalog.to_json({text}) END)) AS r(v {name}))"
            ),
            _ => format!("{text}::{name}"),
        }
    }

    /// SQL for a value of this type as a column that [`Decoder`] gives in the wire's form.
    pub fn to_wire(&self, expression: &str) -> String {
        match self.kind {
            // Text to a device, numbers to the engine's own statements.
            _ if matches!(self.base, pg_sys::XIDOID | pg_sys::XID8OID | pg_sys::REGCLASSOID) => {
                format!("({expression})::pg_catalog.text")
            }
            _ => expression.to_owned(),
        }
    }

    /// SQL that turns one element of the parameter that [`Column values`](crate::arrays) builds into this type.
    pub fn param_to_sql(&self, element: &str) -> String {
        match self.kind {
            Kind::Int | Kind::Bool | Kind::Real | Kind::Uuid | Kind::Bytes => element.to_owned(),
            _ if matches!(self.base, pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID) => element.to_owned(),
            _ => self.text_to_sql(element, false),
        }
    }

    /// The type of that parameter's elements.
    pub fn param_type(&self) -> &'static str {
        match self.kind {
            Kind::Int => "pg_catalog.int8",
            Kind::Bool => "pg_catalog.bool",
            Kind::Real => "pg_catalog.float8",
            Kind::Uuid => "pg_catalog.uuid",
            Kind::Bytes => "pg_catalog.bytea",
            _ => "pg_catalog.text",
        }
    }
}
