//! The elements of MJML, and what each may stand in, as its documentation has it. The renderer takes an unknown one for HTML, shows what is
//! out of place as it comes, and says nothing of either.

use super::error::nearest_hint;

/// What content stands in.
const BLOCKS: &[&str] = &["mj-column", "mj-hero"];

/// An element, and what it may stand in.
const PLACES: &[(&str, &[&str])] = &[
    ("mjml", &[]),
    ("mj-head", &["mjml"]),
    ("mj-body", &["mjml"]),
    ("mj-attributes", &["mj-head"]),
    ("mj-all", &["mj-attributes"]),
    ("mj-class", &["mj-attributes"]),
    ("mj-breakpoint", &["mj-head"]),
    ("mj-font", &["mj-head"]),
    ("mj-preview", &["mj-head"]),
    ("mj-style", &["mj-head"]),
    ("mj-title", &["mj-head"]),
    ("mj-wrapper", &["mj-body"]),
    ("mj-section", &["mj-body", "mj-wrapper"]),
    ("mj-hero", &["mj-body", "mj-wrapper"]),
    ("mj-group", &["mj-section"]),
    ("mj-column", &["mj-section", "mj-group"]),
    ("mj-accordion", BLOCKS),
    ("mj-accordion-element", &["mj-accordion"]),
    ("mj-accordion-title", &["mj-accordion-element"]),
    ("mj-accordion-text", &["mj-accordion-element"]),
    ("mj-button", BLOCKS),
    ("mj-carousel", BLOCKS),
    ("mj-carousel-image", &["mj-carousel"]),
    ("mj-divider", BLOCKS),
    ("mj-image", BLOCKS),
    ("mj-navbar", BLOCKS),
    ("mj-navbar-link", &["mj-navbar"]),
    ("mj-social", BLOCKS),
    ("mj-social-element", &["mj-social"]),
    ("mj-spacer", BLOCKS),
    ("mj-table", BLOCKS),
    ("mj-text", BLOCKS),
];
/// HTML as it is may stand wherever something may, but where there is nothing but attributes or images.
const RAW: &str = "mj-raw";
const NEVER_RAW: [&str; 2] = ["mj-attributes", "mj-carousel"];

/// Why the element `name` may not stand in `parent`, and what to do about it. `parent` is none around all.
pub(super) fn misplaced(name: &str, parent: Option<&str>) -> Option<(String, String)> {
    if !name.starts_with("mj") {
        return None;
    }
    if name == RAW {
        let parent = parent.filter(|parent| NEVER_RAW.contains(parent))?;
        return Some((format!("<{RAW}> may not stand in <{parent}>"), "put it around that".to_owned()));
    }
    let Some((_, places)) = PLACES.iter().find(|(element, _)| *element == name) else {
        let known: Vec<&str> = PLACES.iter().map(|(element, _)| *element).chain([RAW]).collect();
        return Some((format!("`<{name}>` is no element of MJML"), nearest_hint(name, &known)));
    };
    // Any element's attributes may have defaults there.
    let is_good = parent.map_or(places.is_empty(), |parent| places.contains(&parent) || parent == "mj-attributes" && *places != ["mjml"]);
    if is_good {
        return None;
    }
    let belongs = places.iter().map(|place| format!("<{place}>")).collect::<Vec<_>>().join(" or ");
    let hint = if belongs.is_empty() { "it is around all of a mail, once".to_owned() } else { format!("it belongs in {belongs}") };
    Some(match parent {
        Some(parent) => (format!("<{name}> may not stand in <{parent}>"), hint),
        None => (format!("<{name}> stands in nothing"), hint),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_its_places() {
        let check = |name, parent, expected: Option<&str>| {
            let told = misplaced(name, parent).map(|(problem, hint)| format!("{problem} ({hint})"));
            assert_eq!(told.as_deref(), expected, "{name} in {parent:?}");
        };
        check("mjml", None, None);
        check("mj-text", Some("mj-column"), None);
        check("mj-text", Some("mj-attributes"), None);
        check("mj-all", Some("mj-attributes"), None);
        check("mj-raw", Some("mj-head"), None);
        check("p", Some("mj-column"), None);
        check("mj-text", Some("mj-wrapper"), Some("<mj-text> may not stand in <mj-wrapper> (it belongs in <mj-column> or <mj-hero>)"));
        check("mj-style", Some("mj-column"), Some("<mj-style> may not stand in <mj-column> (it belongs in <mj-head>)"));
        check("mj-section", None, Some("<mj-section> stands in nothing (it belongs in <mj-body> or <mj-wrapper>)"));
        check("mjml", Some("mj-body"), Some("<mjml> may not stand in <mj-body> (it is around all of a mail, once)"));
        check("mj-body", Some("mj-attributes"), Some("<mj-body> may not stand in <mj-attributes> (it belongs in <mjml>)"));
        check("mj-txt", Some("mj-column"), Some("`<mj-txt>` is no element of MJML (did you mean `mj-text`?)"));
        for (element, places) in PLACES {
            assert!(places.iter().all(|place| PLACES.iter().any(|(known, _)| known == place)), "{element}");
        }
    }
}
