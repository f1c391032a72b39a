//! PLAIN (RFC 4616).

use super::Credentials;

/// Name and password of the one message, or `None` when it is not `[authzid] NUL name NUL
/// password` in UTF-8.
pub fn parse(message: &[u8]) -> Option<Credentials> {
    if message.len() > MESSAGE_BYTES_MAX {
        return None;
    }
    let mut fields = std::str::from_utf8(message).ok()?.split('\0');
    let (authorization_id, name, password) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || name.is_empty() || password.is_empty() {
        return None;
    }
    Some(Credentials {
        authorization_id: authorization_id.into(),
        name: name.into(),
        password: password.into(),
    })
}

/// Three fields of 255 octets with some room; RFC 4616 asks for 255 each at least.
const MESSAGE_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_fields_with_nul_between() {
        let check = |message: &str, expected: Option<[&str; 3]>| {
            let parsed = parse(message.as_bytes());
            let fields = parsed.map(|it| [it.authorization_id, it.name, it.password]);
            assert_eq!(fields, expected.map(|it| it.map(str::to_owned)), "{message:?}");
        };
        check("\0tim\0tanstaaftanstaaf", Some(["", "tim", "tanstaaftanstaaf"]));
        check("Ursel\0Kurt\0xipj3plmq", Some(["Ursel", "Kurt", "xipj3plmq"]));
        check("\0ü\0ß ß", Some(["", "ü", "ß ß"]));
        for bad in ["", "a", "\0a", "\0\0b", "\0a\0", "\0a\0b\0", "\0a\0b\0c"] {
            check(bad, None);
        }
        assert_eq!(parse(b"\0a\0\xff"), None);
        assert_eq!(parse(format!("\0a\0{}", "b".repeat(5000)).as_bytes()), None);
    }
}
