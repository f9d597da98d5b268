//! Distinguished names the way Go's `pkix.Name` handles them.
//!
//! SPIRE reads a subject into `pkix.Name` and writes it back, which drops attributes it does not
//! know, orders the others and puts several values of one type into one multi-valued RDN. Tooling
//! compares the result, so that this does the same.

use x509_parser::prelude::{FromDer as _, X509Name};

use super::error::X509Error;
use crate::der;

/// The attribute types of `pkix.Name` in the order it writes them; the number is the last arc of
/// the OID 2.5.4.n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attribute {
    Country = 6,
    Organization = 10,
    OrganizationalUnit = 11,
    Locality = 7,
    Province = 8,
    StreetAddress = 9,
    PostalCode = 17,
    CommonName = 3,
    SerialNumber = 5,
    /// Written when a composer adds it; Go drops it where it reads a name.
    UniqueIdentifier = 45,
}

/// A distinguished name with the attributes that Go knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) country: Vec<String>,
    pub(super) organization: Vec<String>,
    pub(super) organizational_unit: Vec<String>,
    pub(super) locality: Vec<String>,
    pub(super) province: Vec<String>,
    pub(super) street_address: Vec<String>,
    pub(super) postal_code: Vec<String>,
    pub(super) common_name: Option<String>,
    pub(super) serial_number: Option<String>,
    pub(super) unique_identifier: Option<String>,
}

impl Name {
    /// Country and organization alone.
    pub(super) fn of(country: &str, organization: &str) -> Self {
        Self {
            country: vec![country.to_owned()],
            organization: vec![organization.to_owned()],
            ..Self::default()
        }
    }

    /// Reads a Name in DER; attributes that Go does not know are dropped.
    pub(super) fn parse(name_der: &[u8]) -> Result<Self, X509Error> {
        let (rest, parsed) =
            X509Name::from_der(name_der).map_err(|_malformed| X509Error::BadName)?;
        if !rest.is_empty() {
            return Err(X509Error::BadName);
        }
        let mut name = Self::default();
        for attribute in parsed.iter_attributes() {
            let [0x55, 0x04, number] = attribute.attr_type().as_bytes() else { continue };
            let Some(list) = Attribute::from_number(*number) else { continue };
            let value = attribute.as_str().map_err(|_unreadable| X509Error::BadName)?;
            name.add(list, value.to_owned());
        }
        Ok(name)
    }

    /// The Name in DER.
    pub(super) fn encode(&self) -> Vec<u8> {
        let lists = [
            (Attribute::Country, self.country.as_slice()),
            (Attribute::Organization, &self.organization),
            (Attribute::OrganizationalUnit, &self.organizational_unit),
            (Attribute::Locality, &self.locality),
            (Attribute::Province, &self.province),
            (Attribute::StreetAddress, &self.street_address),
            (Attribute::PostalCode, &self.postal_code),
            (Attribute::CommonName, self.common_name.as_slice()),
            (Attribute::SerialNumber, self.serial_number.as_slice()),
            (Attribute::UniqueIdentifier, self.unique_identifier.as_slice()),
        ];
        let mut relative_names = Vec::new();
        for (attribute, values) in lists {
            if !values.is_empty() {
                let pairs = values.iter().map(|value| attribute.encode(value)).collect();
                relative_names.extend(der::set_of(pairs));
            }
        }
        der::sequence(&[&relative_names])
    }

    fn add(&mut self, attribute: Attribute, value: String) {
        match attribute {
            Attribute::Country => self.country.push(value),
            Attribute::Organization => self.organization.push(value),
            Attribute::OrganizationalUnit => self.organizational_unit.push(value),
            Attribute::Locality => self.locality.push(value),
            Attribute::Province => self.province.push(value),
            Attribute::StreetAddress => self.street_address.push(value),
            Attribute::PostalCode => self.postal_code.push(value),
            Attribute::CommonName => self.common_name = Some(value),
            Attribute::SerialNumber => self.serial_number = Some(value),
            Attribute::UniqueIdentifier => self.unique_identifier = Some(value),
        }
    }
}

impl Attribute {
    fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Country),
            10 => Some(Self::Organization),
            11 => Some(Self::OrganizationalUnit),
            7 => Some(Self::Locality),
            8 => Some(Self::Province),
            9 => Some(Self::StreetAddress),
            17 => Some(Self::PostalCode),
            3 => Some(Self::CommonName),
            5 => Some(Self::SerialNumber),
            _ => None,
        }
    }

    fn encode(self, value: &str) -> Vec<u8> {
        let tag =
            if value.bytes().all(is_printable) { der::PRINTABLE_STRING } else { der::UTF8_STRING };
        let oid = der::element(der::OID, &[&[0x55, 0x04, self as u8]]);
        der::sequence(&[&oid, &der::element(tag, &[value.as_bytes()])])
    }
}

/// Whether Go writes the byte as part of a PrintableString.
fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'\''..=b')' | b'+'..=b'/' | b' ' | b':' | b'=' | b'?')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_values_of_one_type_share_one_set() {
        let name = Name {
            organization: vec!["b".to_owned(), "a".to_owned()],
            common_name: Some("w*".to_owned()),
            ..Name::default()
        };
        let expected = [
            &[0x30, 0x23][..],
            // SET { O=a, O=b }, sorted as DER wants it
            &[0x31, 0x14, 0x30, 8, 6, 3, 0x55, 4, 10, 0x13, 1, b'a'],
            &[0x30, 8, 6, 3, 0x55, 4, 10, 0x13, 1, b'b'],
            // an asterisk is not printable
            &[0x31, 0x0b, 0x30, 9, 6, 3, 0x55, 4, 3, 0x0c, 2, b'w', b'*'],
        ]
        .concat();
        assert_eq!(name.encode(), expected);
    }

    #[test]
    fn names_read_back() {
        let name = Name {
            country: vec!["US".to_owned()],
            organization: vec!["SPIRE".to_owned()],
            organizational_unit: vec!["DOWNSTREAM-1".to_owned()],
            locality: vec!["Zürich".to_owned()],
            province: vec!["ZH".to_owned()],
            street_address: vec!["Gasse 1".to_owned()],
            postal_code: vec!["8000".to_owned()],
            common_name: Some("db.example".to_owned()),
            serial_number: Some("42".to_owned()),
            unique_identifier: None,
        };
        assert_eq!(Name::parse(&name.encode()).unwrap(), name);
        let with_id = Name { unique_identifier: Some("ab".to_owned()), ..name.clone() };
        assert_eq!(Name::parse(&with_id.encode()).unwrap(), name, "Go does not know it");
        assert_eq!(Name::parse(&[0x30, 0]).unwrap(), Name::default());
        assert_eq!(Name::parse(&[0x30, 0, 0]), Err(X509Error::BadName));
    }
}
