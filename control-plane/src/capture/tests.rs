use super::iptables::Family;
use super::*;

fn whole() -> Rules {
    Rules {
        exclude_outbound: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        include_outbound_ports: vec![9443],
        exclude_outbound_ports: vec![3306, 22],
        include_inbound_ports: Some(vec![9080]),
        dns_port: Some(15053),
        ..Rules::default()
    }
}

#[test]
fn networks_are_read_and_mistakes_told() {
    assert_eq!("10.1.2.3".parse::<Network>().unwrap().to_string(), "10.1.2.3/32");
    assert_eq!("*".parse::<Networks>().unwrap(), Networks::All);
    assert_eq!("".parse::<Networks>().unwrap(), Networks::Only(Vec::new()));
    let both = "10.0.0.0/8, fd00::/8".parse::<Networks>().unwrap();
    assert!(matches!(both, Networks::Only(of) if of.len() == 2));
    assert!("10.0.0.0/33".parse::<Network>().unwrap_err().contains("10.0.0.0/33"));
    assert!("ten".parse::<Networks>().is_err());
}

#[test]
fn what_is_excluded_comes_before_what_is_redirected() {
    for text in [nft::script(&whole()), iptables::script(&whole(), Family::V4)] {
        let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in\n{text}"));
        let all = text.rfind("15001").unwrap();
        assert!(place("10.0.0.0/8") < all, "{text}");
        assert!(place("3306") < all, "{text}");
        assert!(place("9443") < all, "{text}");
        assert!(place("1337") < place("15053"), "the proxy's own queries are its own\n{text}");
    }
}

#[test]
fn each_family_has_its_own_networks() {
    let v4 = iptables::script(&whole(), Family::V4);
    let v6 = iptables::script(&whole(), Family::V6);
    assert!(v4.contains("10.0.0.0/8") && !v4.contains("fd00"), "{v4}");
    assert!(v6.contains("fd00::/8") && !v6.contains("10.0.0.0"), "{v6}");
}
