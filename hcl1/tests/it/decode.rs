//! Values out of trees: weak typing, repetition, labels, and the report of unknown keys.

use std::time::Duration;

use steeple_hcl1::decode::Block;
use steeple_hcl1::parse;

#[test]
fn scalars_are_weakly_typed_as_in_spire() {
    let body = parse(
        "port = \"8081\"\nhex = \"0x1F\"\nnum = 7\ntext = 80\nflag = true\nquoted = \"true\"\n\
         one = 1\nhalf = .5\nttl = \"1h30m\"\nnone = \"\"\nminus = \"-5s\"\nbad = \"5d\"",
    )
    .unwrap();
    let block = Block::of_file(&body);
    assert_eq!(block.int("port"), Ok(Some(8081)));
    assert_eq!(block.int("hex"), Ok(Some(31)));
    assert_eq!(block.int("num"), Ok(Some(7)));
    assert_eq!(block.int("absent"), Ok(None));
    assert_eq!(block.string("text"), Ok(Some("80".to_owned())));
    assert_eq!(block.string("flag"), Ok(Some("true".to_owned())));
    assert_eq!(block.bool("flag"), Ok(Some(true)));
    assert_eq!(block.float("half"), Ok(Some(0.5)));
    assert_eq!(block.duration("ttl"), Ok(Some(Duration::from_secs(5400))));
    assert_eq!(block.duration("none"), Ok(None));
    assert_eq!(block.duration_ns("minus"), Ok(Some(-5_000_000_000)));

    let refusals = [
        (
            block.bool("quoted").unwrap_err(),
            "at 6:10: quoted: expected true or false without quotes; got a string",
        ),
        (
            block.bool("one").unwrap_err(),
            "at 7:7: one: expected true or false without quotes; got a number",
        ),
        (
            block.int("flag").unwrap_err(),
            "at 5:8: flag: expected a whole number; got true or false",
        ),
        (block.int("half").unwrap_err(), "at 8:8: half: expected a whole number; got a number"),
        (block.duration("minus").unwrap_err(), "at 11:9: minus: duration is negative"),
        (
            block.duration("bad").unwrap_err(),
            "at 12:7: bad: time: unknown unit \"d\" in duration \"5d\"",
        ),
    ];
    for (error, text) in refusals {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn repeated_scalars_replace_and_repeated_lists_and_sections_add_up() {
    let body = parse(
        "a = 1\na = 2\nids = [\"x\", 5]\nids = \"y\"\ns { a = 1, b = 1 }\ns = { b = 2 }\n\
         s = [{ c = 3 }, { d = 4 }]",
    )
    .unwrap();
    let block = Block::of_file(&body);
    assert_eq!(block.int("a"), Ok(Some(2)));
    assert_eq!(block.strings("ids").unwrap(), ["x", "5", "y"]);
    let section = block.block("s").unwrap().unwrap();
    let values = ["a", "b", "c", "d"].map(|name| section.int(name).unwrap().unwrap());
    assert_eq!(values, [1, 2, 3, 4]);
    assert_eq!(block.blocks("s").unwrap().len(), 4);
    assert_eq!(section.to_body().items.len(), 5);
    assert!(block.block("a").unwrap_err().to_string().contains("expected a section in braces"));
    assert!(block.strings("s").unwrap_err().to_string().contains("expected a list of strings"));
}

#[test]
fn names_match_in_any_case_and_the_others_are_unknown() {
    let body =
        parse("Server {\n  TRUST_DOMAIN = \"a\"\n  typo = 1\n  typo = 2\n  Oops {}\n}").unwrap();
    let file = Block::of_file(&body);
    let server = file.block("server").unwrap().unwrap();
    assert_eq!(server.string("trust_domain"), Ok(Some("a".to_owned())));
    assert!(!server.has("data_dir"));
    let unknown: Vec<String> =
        server.unknown_keys().iter().map(|key| format!("{} {}", key.pos, key.text)).collect();
    assert_eq!(unknown, ["3:3 typo", "5:3 Oops"]);
    assert!(file.unknown_keys().is_empty());
    assert_eq!(server.pos().to_string(), "1:1");
}

#[test]
fn plugins_are_found_in_every_spelling() {
    let spellings = [
        "plugins { KeyManager \"disk\" { plugin_data { a = 1 } } NodeAttestor \"x\" {} }",
        "plugins { KeyManager { disk { plugin_data { a = 1 } } } NodeAttestor { x {} } }",
        "plugins { \"KeyManager\" \"disk\" { plugin_data = { a = 1 } } \"NodeAttestor\" \"x\" {} }",
        "plugins = { KeyManager = { disk = { plugin_data { a = 1 } } } NodeAttestor x {} }",
        "plugins KeyManager disk { plugin_data { a = 1 } }\nplugins \"NodeAttestor\" x {}",
        r#"{"plugins": {"KeyManager": {"disk": {"plugin_data": {"a": 1}}}, "NodeAttestor": {"x": {}}}}"#,
        r#"{"plugins": [{"KeyManager": [{"disk": {"plugin_data": {"a": 1}}}]}, {"NodeAttestor": {"x": {}}}]}"#,
    ];
    for text in spellings {
        let body = parse(text).unwrap();
        let file = Block::of_file(&body);
        let found: Vec<_> = match file.block("plugins").unwrap().unwrap().paths(2) {
            // With labels on `plugins` itself the paths start one level up.
            _ if text.starts_with("plugins K") => file
                .paths(3)
                .unwrap()
                .into_iter()
                .map(|(mut path, block)| {
                    path.remove(0);
                    (path, block)
                })
                .collect(),
            found => found.unwrap(),
        };
        let names: Vec<Vec<&str>> = found
            .iter()
            .map(|(path, _)| path.iter().map(|label| label.text.as_str()).collect())
            .collect();
        assert_eq!(names, [["KeyManager", "disk"], ["NodeAttestor", "x"]], "{text}");
        let data = found[0].1.block("plugin_data").unwrap().unwrap();
        assert_eq!(data.int("a"), Ok(Some(1)), "{text}");
        assert!(found[1].1.is_empty());
    }
}

#[test]
fn labelled_sections_of_one_label_are_joined() {
    let body =
        parse("f \"td1\" { a = 1 }\nf { td2 { a = 2 } }\nf \"td1\" { b = 3 }\nf \"x\" \"y\" {}")
            .unwrap();
    let file = Block::of_file(&body);
    assert!(file.labelled("f").unwrap_err().to_string().contains("fewer labels"));

    let body = parse("f \"td1\" { a = 1 }\nf { td2 { a = 2 } }\nf \"td1\" { b = 3 }").unwrap();
    let file = Block::of_file(&body);
    let found = file.labelled("f").unwrap();
    let names: Vec<_> = found.iter().map(|(label, _)| label.text.as_str()).collect();
    assert_eq!(names, ["td1", "td2"]);
    assert_eq!((found[0].1.int("a"), found[0].1.int("b")), (Ok(Some(1)), Ok(Some(3))));
}

#[test]
fn maps_of_texts_keep_order_and_the_last_of_a_name() {
    let body = parse("m { b = \"1\" a = 2 }\nm = { b = \"3\" }").unwrap();
    let pairs = Block::of_file(&body).string_map("m").unwrap();
    let pairs: Vec<_> =
        pairs.iter().map(|(label, text)| (label.text.as_str(), text.as_str())).collect();
    assert_eq!(pairs, [("a", "2"), ("b", "3")]);
}
