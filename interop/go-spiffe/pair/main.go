// The two ends of walks through two trust domains: a web server and a client that authorise each
// other by SPIFFE ID, each through the Workload API of its own agent (SPIFFE_ENDPOINT_SOCKET).
//
//	pair server ADDRESS PEER   serves a page until it is killed
//	pair client ADDRESS PEER   asks for the page once and prints it, or says why not and exits 1
//	pair load ADDRESS PEER     asks again and again, each time by a handshake of its own, until it is
//	                           killed; one line of JSON each
package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// What the walk's web server answers.
const page = "<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01//EN\" \"http://www.w3.org/TR/html4/strict.dtd\">\n" +
	"<title>Directory listing for /</title>\n"

// How long a client tries, its SVID included.
const patience = 15 * time.Second

// How often load asks, and how long it waits for an answer.
const (
	pace     = 50 * time.Millisecond
	deadline = 5 * time.Second
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: pair server|client|load ADDRESS PEER")
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func run(end, address, peer string) error {
	id, err := spiffeid.FromString(peer)
	if err != nil {
		return err
	}
	switch end {
	case "server":
		return serve(address, id)
	case "client":
		return ask(address, id)
	case "load":
		return load(address, id)
	default:
		return fmt.Errorf("%q is no end", end)
	}
}

func serve(address string, client spiffeid.ID) error {
	source, err := workloadapi.NewX509Source(context.Background())
	if err != nil {
		return fmt.Errorf("open an X509Source: %w", err)
	}
	defer source.Close()
	server := http.Server{
		Addr:              address,
		TLSConfig:         tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(client)),
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
			answer.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(answer, page)
		}),
	}
	log.Print("serving")
	return server.ListenAndServeTLS("", "")
}

func ask(address string, server spiffeid.ID) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return fmt.Errorf("open an X509Source: %w", err)
	}
	defer source.Close()
	answer, err := get(ctx, source, address, server)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

// One request over a connection of its own.
func get(ctx context.Context, source *workloadapi.X509Source, address string, server spiffeid.ID) (*http.Response, error) {
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(server))
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/", nil)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}

// What came of one request of load.
type outcome struct {
	OK bool `json:"ok"`
	// How long it took.
	Milliseconds int64 `json:"ms"`
	// Key ids of the authorities that signed the client's certificate and the server's.
	Client string `json:"client,omitempty"`
	Server string `json:"server,omitempty"`
	Error  string `json:"error,omitempty"`
}

func load(address string, server spiffeid.ID) error {
	source, err := workloadapi.NewX509Source(context.Background())
	if err != nil {
		return fmt.Errorf("open an X509Source: %w", err)
	}
	defer source.Close()
	lines := json.NewEncoder(os.Stdout)
	for range time.Tick(pace) {
		began := time.Now()
		made, err := meet(source, address, server)
		if err != nil {
			made = outcome{Error: err.Error()}
		}
		made.Milliseconds = time.Since(began).Milliseconds()
		if err := lines.Encode(made); err != nil {
			return err
		}
	}
	return nil
}

func meet(source *workloadapi.X509Source, address string, server spiffeid.ID) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	own, err := source.GetX509SVID()
	if err != nil {
		return outcome{}, err
	}
	answer, err := get(ctx, source, address, server)
	if err != nil {
		return outcome{}, err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return outcome{}, err
	}
	signer := func(certificate *x509.Certificate) string {
		return hex.EncodeToString(certificate.AuthorityKeyId)
	}
	return outcome{
		OK:     true,
		Client: signer(own.Certificates[0]),
		Server: signer(answer.TLS.PeerCertificates[0]),
	}, nil
}
