// The cryptography that SPIRE does for each SVID, and nothing else, in Go's standard library on one
// processor: what a server in Go cannot be cheaper than.
//
//	go-floor x509|jwt ec-p256|ec-p384|rsa-2048 MILLISECONDS
//
// prints one line of JSON: the units done, and the CPU time of the process for each in microseconds.
package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// Units between two looks at the clock.
const unitsAtOnce = 10

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: go-floor x509|jwt ec-p256|ec-p384|rsa-2048 MILLISECONDS")
	}
	runtime.GOMAXPROCS(1)
	milliseconds, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	signer, err := newKey(args[1])
	if err != nil {
		return err
	}
	var unit func() error
	switch args[0] {
	case "x509":
		unit, err = newX509(signer)
	case "jwt":
		unit, err = newJWT(signer)
	default:
		err = fmt.Errorf("no work %q", args[0])
	}
	if err != nil {
		return err
	}
	return measure(unit, time.Duration(milliseconds)*time.Millisecond)
}

func measure(unit func() error, slice time.Duration) error {
	// Once, so that tables that are made on first use are there.
	if err := unit(); err != nil {
		return err
	}
	before, err := cpu()
	if err != nil {
		return err
	}
	units := 0
	for began := time.Now(); units == 0 || time.Since(began) < slice; units += unitsAtOnce {
		for range unitsAtOnce {
			if err := unit(); err != nil {
				return err
			}
		}
	}
	after, err := cpu()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"units":  units,
		"cpu_us": float64((after - before).Nanoseconds()) / 1e3 / float64(units),
		"go":     runtime.Version(),
	})
}

// CPU time of the process, of its garbage collection too.
func cpu() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "ec-p256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ec-p384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa-2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, fmt.Errorf("no key type %q", kind)
	}
}

// One X509-SVID: the request is read and its signature checked, the certificate is made (Go checks its
// signature before it returns it) and read again.
func newX509(signer crypto.Signer) (func() error, error) {
	authority, err := newAuthority(signer)
	if err != nil {
		return nil, err
	}
	request, err := newRequest()
	if err != nil {
		return nil, err
	}
	id, err := url.Parse("spiffe://example.org/ns/bench/sa/workload")
	if err != nil {
		return nil, err
	}
	return func() error {
		asked, err := x509.ParseCertificateRequest(request)
		if err != nil {
			return err
		}
		if err := asked.CheckSignature(); err != nil {
			return err
		}
		template, err := leaf(asked.PublicKey, authority, id)
		if err != nil {
			return err
		}
		made, err := x509.CreateCertificate(rand.Reader, template, authority, asked.PublicKey, signer)
		if err != nil {
			return err
		}
		svid, err := x509.ParseCertificate(made)
		if err != nil {
			return err
		}
		if len(svid.URIs) != 1 || svid.IsCA {
			return errors.New("not what was asked for")
		}
		return nil
	}, nil
}

func leaf(key any, authority *x509.Certificate, id *url.URL) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	keyID, err := subjectKeyID(key)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}},
		URIs:                  []*url.URL{id},
		NotBefore:             now.Add(-10 * time.Second),
		NotAfter:              now.Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID,
		AuthorityKeyId:        authority.SubjectKeyId,
		PublicKey:             key,
	}, nil
}

func newAuthority(signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Country: []string{"US"}, Organization: []string{"SPIFFE"}},
		NotBefore:             now.Add(-10 * time.Second),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	made, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(made)
}

func newRequest() ([]byte, error) {
	key, err := newKey("ec-p256")
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// The digest of the key's bits.
func subjectKeyID(key any) ([]byte, error) {
	point, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("not a key on a curve")
	}
	bits, err := point.Bytes()
	if err != nil {
		return nil, err
	}
	digest := sha1.Sum(bits)
	return digest[:], nil
}

// One JWT-SVID: its claims are written and signed, and read again.
func newJWT(signer crypto.Signer) (func() error, error) {
	number := 0
	return func() error {
		number++
		now := time.Now()
		claims := map[string]any{
			"sub": "spiffe://example.org/ns/bench/sa/workload",
			"aud": []string{"audience-" + strconv.Itoa(number)},
			"exp": now.Add(5 * time.Minute).Unix(),
			"iat": now.Unix(),
		}
		token, err := signToken(signer, claims)
		if err != nil {
			return err
		}
		return readToken(token)
	}, nil
}

func signToken(signer crypto.Signer, claims map[string]any) ([]byte, error) {
	algorithm, hash, digest := "ES256", crypto.SHA256, func(text []byte) []byte {
		sum := sha256.Sum256(text)
		return sum[:]
	}
	switch key := signer.Public().(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P384() {
			algorithm, hash, digest = "ES384", crypto.SHA384, func(text []byte) []byte {
				sum := sha512.Sum384(text)
				return sum[:]
			}
		}
	case *rsa.PublicKey:
		algorithm = "RS256"
	}
	header, err := json.Marshal(map[string]string{
		"alg": algorithm, "kid": "pGyrLXj8hVrWBPeLvZVGa4fxJGQRvKPz", "typ": "JWT",
	})
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return nil, err
	}
	encoding := base64.RawURLEncoding
	token := encoding.AppendEncode(nil, header)
	token = append(token, '.')
	token = encoding.AppendEncode(token, payload)
	signature, err := signJWS(signer, digest(token), hash)
	if err != nil {
		return nil, err
	}
	token = append(token, '.')
	return encoding.AppendEncode(token, signature), nil
}

// A signature as JWS wants it: of a curve, both numbers at full width.
func signJWS(signer crypto.Signer, digest []byte, hash crypto.Hash) ([]byte, error) {
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok {
		return signer.Sign(rand.Reader, digest, hash)
	}
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		return nil, err
	}
	width := (key.Curve.Params().BitSize + 7) / 8
	signature := make([]byte, 2*width)
	r.FillBytes(signature[:width])
	s.FillBytes(signature[width:])
	return signature, nil
}

func readToken(token []byte) error {
	parts := bytes.Split(token, []byte("."))
	if len(parts) != 3 {
		return errors.New("not a token")
	}
	for _, part := range parts[:2] {
		text, err := base64.RawURLEncoding.AppendDecode(nil, part)
		if err != nil {
			return err
		}
		var read map[string]any
		if err := json.Unmarshal(text, &read); err != nil {
			return err
		}
	}
	return nil
}
