// The two ends of the walk through two trust domains: a web server and a client that authorise each
// other by SPIFFE ID, each through the Workload API of its own agent (SPIFFE_ENDPOINT_SOCKET).
//
//	pair server ADDRESS PEER   serves a page until it is killed
//	pair client ADDRESS PEER   asks for the page once and prints it, or says why not and exits 1
package main

import (
	"context"
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

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: pair server|client ADDRESS PEER")
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
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(server))
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}
