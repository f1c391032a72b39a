//! From an address to the directory that has its mail. `Pure.`

use std::path::PathBuf;

/// Where the mail of a mailbox may be: by its whole local-part, then by what stands in front of a
/// detail. None where the name would lead elsewhere.
pub fn directories(pattern: &str, address: &str, separators: &str) -> Vec<PathBuf> {
    let (local_part, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let (local_part, domain) = (local_part.to_lowercase(), domain.to_lowercase());
    let base = local_part.find(|c| separators.contains(c)).map(|at| &local_part[..at]);
    let is_name = |text: &&str| {
        !text.is_empty() && !text.starts_with('.') && !text.contains(['/', '\0', '"', '\\'])
    };
    let names = [Some(&*local_part), base].into_iter().flatten().filter(is_name);
    let fill_in =
        |name: &str| pattern.replace("{domain}", &domain).replace("{local_part}", name).into();
    names.map(fill_in).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_into_its_own_directory_and_nowhere_else() {
        let check = |address: &str, expected: &[&str]| {
            let found = directories("/var/{domain}/{local_part}/md", address, "+");
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(found, expected, "{address}");
        };
        check("Ann@B.test", &["/var/b.test/ann/md"]);
        check("ann+x+y@b.test", &["/var/b.test/ann+x+y/md", "/var/b.test/ann/md"]);
        check("+x@b.test", &["/var/b.test/+x/md"]);
        check("..@b.test", &[]);
        check("a/../b@b.test", &[]);
        check("\"a b\"@b.test", &[]);
        check("../x+y@b.test", &[]);
        check("a/b+c@b.test", &[]);
    }
}
