//! Variable-length integers: LEB128, least significant group first, shortest form only.

/// Appends an unsigned integer: 1 byte below 128, 10 bytes at most.
pub fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes an unsigned integer off the front. `None`: it ends early, is over-long, or does not fit 64 bits.
pub fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for (at, &byte) in rest.iter().enumerate().take(10) {
        let group = u64::from(byte & 0x7f);
        if at == 9 && group > 1 {
            return None;
        }
        number |= group << (7 * at);
        if byte & 0x80 == 0 {
            if byte == 0 && at > 0 {
                return None; // over-long: the same number has a shorter form
            }
            *rest = &rest[at + 1..];
            return Some(number);
        }
    }
    None
}

/// Maps small negative and positive integers to small unsigned ones.
pub fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn over_long_and_oversized_integers_are_refused() {
        assert_eq!(read_varint(&mut &[0x80, 0x00][..]), None);
        assert_eq!(read_varint(&mut &[0xff; 11][..]), None);
        assert_eq!(read_varint(&mut &[0x80][..]), None);
    }

    proptest! {
        #[test]
        fn numbers_go_there_and_back(number in any::<u64>(), signed in any::<i64>()) {
            let mut bytes = Vec::new();
            write_varint(&mut bytes, number);
            let mut rest = &bytes[..];
            prop_assert_eq!(read_varint(&mut rest), Some(number));
            prop_assert!(rest.is_empty());
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }
}
