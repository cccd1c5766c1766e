package testserver_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"

	"slipway/internal/testserver"
)

func TestMain(m *testing.M) { testserver.Main(m) }

func TestPostgreSQLGivesEachTestItsOwnDatabase(t *testing.T) {
	first, second := testserver.PostgreSQL(t), testserver.PostgreSQL(t)
	if first == second {
		t.Fatalf("two databases, one address: %s", first)
	}
	exec := func(dsn string) {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), "CREATE TABLE machine (id int)"); err != nil {
			t.Error(err)
		}
	}
	exec(first)
	exec(second) // fails when it is the same database
}

func TestPostgreSQLKeepsWhatWasCommittedOverKill9(t *testing.T) {
	server := testserver.NewPostgreSQL(t)
	dsn := server.DSN(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "CREATE TABLE machine AS SELECT 7 AS id"); err != nil {
		t.Fatal(err)
	}
	server.Kill9(t)
	if err := conn.Ping(t.Context()); err == nil {
		t.Fatal("a killed server answers")
	}
	server.Start(t)
	server.Restart(t)
	again, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(t.Context())
	var id int
	if err := again.QueryRow(t.Context(), "SELECT id FROM machine").Scan(&id); err != nil || id != 7 {
		t.Fatalf("after kill -9: id %d, %v", id, err)
	}
}

func TestRabbitMQGivesEachTestItsOwnVirtualHost(t *testing.T) {
	first, second := testserver.RabbitMQ(t), testserver.RabbitMQ(t)
	for url, want := range map[string]bool{first: true, second: false} {
		conn, err := amqp.Dial(url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if want {
			if _, err := ch.QueueDeclare("orders", true, false, false, false, nil); err != nil {
				t.Fatal(err)
			}
		} else if _, err := ch.QueueDeclarePassive("orders", true, false, false, false, nil); err == nil {
			t.Error("a queue of one virtual host is seen in the other")
		}
	}
}

func TestRabbitMQComesBackAfterKill9(t *testing.T) {
	broker := testserver.NewRabbitMQ(t)
	url := broker.URL(t)
	broker.Kill9(t)
	if _, err := amqp.Dial(url); err == nil {
		t.Fatal("a killed broker answers")
	}
	broker.Start(t)
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatalf("the virtual host after kill -9: %v", err)
	}
	_ = conn.Close()
}

// dieVar makes TestDie, run alone in another process, start its servers and be killed.
const dieVar = "SLIPWAY_TESTSERVER_DIE"

func TestDie(t *testing.T) {
	dir := os.Getenv(dieVar)
	if dir == "" {
		return // only a process of TestNothingIsLeftOfAKilledTest goes on
	}
	testserver.PostgreSQL(t)
	testserver.RabbitMQ(t)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("directories of two servers wanted, got %v, %v", entries, err)
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	_ = self.Kill()
	select {}
}

func TestNothingIsLeftOfAKilledTest(t *testing.T) {
	dir, err := os.MkdirTemp("", "sw") // open to the account postgres, which t.TempDir is not
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDie$")
	cmd.Env = append(os.Environ(), dieVar+"="+dir, "TMPDIR="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the inner test was not killed: %v\n%s", err, out)
	}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		left := processesNaming(t, dir)
		if len(entries) == 0 && len(left) == 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("left behind: %v %v", entries, left)
		case <-tick.C:
		}
	}
}

// processesNaming lists processes whose arguments or working directory lie in dir.
func processesNaming(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		args, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline") // empty when it ended meanwhile
		cwd, _ := os.Readlink("/proc/" + e.Name() + "/cwd")
		if e.IsDir() && (strings.Contains(string(args), dir) || strings.HasPrefix(cwd, dir)) {
			found = append(found, e.Name()+" "+strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return found
}
