package link
import ("testing";"time";"fmt";"github.com/vishvananda/netlink";"net";"sort")
func TestSteps(t *testing.T) {
	l := newLinks(t)
	tot := map[string][]time.Duration{}
	step := func(n string, f func() error) { s:=time.Now(); if err:=f(); err!=nil {t.Fatal(n,err)}; tot[n]=append(tot[n],time.Since(s)) }
	c := here(t)
	for i := range 60 {
		ns := newNamespace(t)
		id := fmt.Sprint("z", i)
		mac,_ := net.ParseMAC("02:42:0a:06:00:02")
		var n, own *namespace
		step("open", func() error { var err error; n, own, err = openContainer(ns); return err })
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.TxQLen = HostName(id), 1450, 1000
		pair := netlink.NewVeth(attrs)
		pair.PeerName, pair.PeerHardwareAddr = "eth0", mac
		pair.PeerNamespace = netlink.NsFd(n.fd())
		step("add", func() error { return c.LinkAdd(pair) })
		step("ipv6", func() error { return disableIPv6(HostName(id)) })
		step("tx", func() error { return disableTxChecksum(n, own, "eth0") })
		step("deafen", func() error { return addIngressDrop(HostName(id)) })
		step("up", func() error { return c.LinkSetUp(ref(pair.Index)) })
		var in *conn
		step("dial", func() error { var err error; in, err = n.dial(); return err })
		var link netlink.Link
		step("lookup", func() error { var err error; link, err = in.byName("eth0"); return err })
		step("isours", func() error { return l.isOurs(c, n, link, PeerName(id), mac) })
		cfg := config()
		step("genmode", func() error { return in.LinkSetIP6AddrGenMode(link, 1) })
		step("addr", func() error { return in.AddrAdd(link, &netlink.Addr{IPNet: ipNet(cfg.Addr)}) })
		step("loup", func() error { return in.LinkSetUp(ref(1)) })
		step("up2", func() error { return in.LinkSetUp(link) })
		step("default", func() error { return in.ensureDefault(link, cfg.Gateway) })
		step("delete", func() error { return l.DeleteVeth(t.Context(), HostName(id)) })
		step("delete-none", func() error { return l.DeleteVeth(t.Context(), HostName(id)) })
		in.Close(); n.Close(); own.Close()
	}
	for k, v := range tot { sort.Slice(v, func(i,j int) bool {return v[i]<v[j]}); fmt.Println(k, v[len(v)/2], v[len(v)*9/10]) }
}
