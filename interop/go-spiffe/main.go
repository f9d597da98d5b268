// A workload on go-spiffe: fetch, validate and watch through a rotation.
//
// Takes SPIFFE_ENDPOINT_SOCKET and STEEPLE_EXPECT_ID from the environment; exits 0 when everything
// was as it must be, and says what was not otherwise.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 80*time.Second)
	defer cancel()
	if err := run(ctx, os.Getenv("STEEPLE_EXPECT_ID")); err != nil {
		log.Fatal(err)
	}
	fmt.Println("go-spiffe: ok")
}

func run(ctx context.Context, expect string) error {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return fmt.Errorf("open an X509Source: %w", err)
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		return fmt.Errorf("take the SVID: %w", err)
	}
	if svid.ID.String() != expect {
		return fmt.Errorf("got %s instead of %s", svid.ID, expect)
	}
	if err := verify(source, svid); err != nil {
		return err
	}
	if err := tokens(ctx, expect); err != nil {
		return err
	}
	return rotation(ctx, source, svid)
}

func verify(source *workloadapi.X509Source, svid *x509svid.SVID) error {
	if _, _, err := x509svid.Verify(svid.Certificates, source); err != nil {
		return fmt.Errorf("verify the SVID against the bundle: %w", err)
	}
	return nil
}

func tokens(ctx context.Context, expect string) error {
	source, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return fmt.Errorf("open a JWTSource: %w", err)
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "interop"})
	if err != nil {
		return fmt.Errorf("fetch a JWT-SVID: %w", err)
	}
	if svid.ID.String() != expect {
		return fmt.Errorf("the token names %s", svid.ID)
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"interop"}); err != nil {
		return fmt.Errorf("validate the JWT-SVID here: %w", err)
	}
	client, err := workloadapi.New(ctx)
	if err != nil {
		return fmt.Errorf("open a client: %w", err)
	}
	defer client.Close()
	if _, err := client.ValidateJWTSVID(ctx, svid.Marshal(), "interop"); err != nil {
		return fmt.Errorf("validate the JWT-SVID through the agent: %w", err)
	}
	if _, err := client.ValidateJWTSVID(ctx, svid.Marshal(), "other"); err == nil {
		return fmt.Errorf("a token for another audience was accepted")
	}
	return nil
}

func rotation(ctx context.Context, source *workloadapi.X509Source, first *x509svid.SVID) error {
	for {
		if err := source.WaitUntilUpdated(ctx); err != nil {
			return fmt.Errorf("no rotation was seen: %w", err)
		}
		svid, err := source.GetX509SVID()
		if err != nil {
			return fmt.Errorf("take the SVID again: %w", err)
		}
		if svid.Certificates[0].SerialNumber.Cmp(first.Certificates[0].SerialNumber) != 0 {
			return verify(source, svid)
		}
	}
}
