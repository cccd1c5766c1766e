package replay

import (
	"os"
	"testing"
)

func TestX(t *testing.T) {
	_, err := Run(t.Context(), os.Getenv("SLIPWAY_XAPI_RECORDINGS"), os.Stdout)
	if err != nil {
		t.Fatal(err)
	}
}
