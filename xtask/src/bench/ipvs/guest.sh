# Sends packets through one balancer after the other, from one end of a veth pair to the end of another, and says how long it took. The
# machine's clock counts instructions, a thousand a microsecond, and there is one processor: the time is that of all that was done.
N=20000
BACKEND=10.2.0.10

ip netns add client
ip netns add backend
ip link add in address 02:00:00:00:00:01 type veth peer name client netns client
ip link add out address 02:00:00:00:00:02 type veth peer name backend netns backend
ip address add 10.1.0.1/24 dev in
ip address add 10.2.0.1/24 dev out
ip -n client address add 10.1.0.2/24 dev client
ip -n backend address add $BACKEND/24 dev backend
ip link set in up
ip link set out up
ip -n client link set client up
ip -n backend link set backend up
# What XDP sends is taken by a veth whose packets are joined, or that has a program of its own.
ip netns exec client ethtool -K client gro on
ip netns exec backend ethtool -K backend gro on
# Nobody's: the backend's end drops what arrives as soon as it is looked at.
ip neighbour replace $BACKEND lladdr 02:00:00:00:00:77 dev out nud permanent
echo 1 > /proc/sys/net/ipv4/ip_forward

# VIP MAC
send() {
    ip netns exec client sh -c "
        echo rem_device_all > /proc/net/pktgen/kpktgend_0
        echo add_device client > /proc/net/pktgen/kpktgend_0
        for word in 'count $N' 'pkt_size 60' 'delay 0' 'dst $1' 'dst_mac $2' 'src_min 10.1.0.2' 'src_max 10.1.0.2' \
            'udp_src_min 1024' 'udp_src_max 2024' 'udp_dst_min 80' 'udp_dst_max 80' 'flag UDPCSUM' 'flag NO_TIMESTAMP'; do
            echo \"\$word\" > /proc/net/pktgen/client
        done
        echo start > /proc/net/pktgen/pgctrl
        grep Result: /proc/net/pktgen/client" > /tmp/result
}

arrived() {
    ip netns exec backend cat /sys/class/net/backend/statistics/rx_packets
}

# NAME VIP MAC: the second time, when the balancer has seen the flows.
measure() {
    send $2 $3
    before=$(arrived)
    send $2 $3
    read -r _ _ time _ < /tmp/result
    echo "@@ measured $1 ${time%%(*} $N $(($(arrived) - before))"
}

TO_US=02:00:00:00:00:01
TO_NOBODY=02:00:00:00:00:99
DROP="xdpdrv obj /bench-drop.o sec xdp"

# What it takes to bring a packet to where a balancer sees it: to IP, and to XDP.
measure to_ip 10.200.0.1 $TO_NOBODY
ip link set in $DROP
measure to_xdp 10.200.0.1 $TO_US
ip link set in xdpdrv off

n=0
for mode in g:dr m:nat i:tunnel; do
    n=$((n + 1))
    vip=10.200.1.$n
    ip address add $vip/32 dev lo
    ipvsadm -A -u $vip:80 -s mh
    ipvsadm -a -u $vip:80 -r $BACKEND:80 -${mode%%:*}
    measure ipvs_${mode##*:} $vip $TO_US
    ipvsadm -C
    ip address del $vip/32 dev lo
done

# As a network card sends: what comes out is not made a socket buffer again.
ip -n backend link set backend $DROP
for forward in dsr nat ipip; do
    cat > /tmp/xlb.toml <<END
[xdp]
interfaces = ["in", "out"]
mode = "native"
[[service]]
name = "measured"
vip = "10.200.2.1"
port = 80
protocol = "udp"
forward = "$forward"
health = { type = "none" }
[[service.backend]]
address = "$BACKEND"
END
    xlb run --config /tmp/xlb.toml > /tmp/xlb.log 2>&1 &
    daemon=$!
    tries=0
    until xlb status --json 2> /dev/null | tr -d ' ' | grep -q '"serving":true'; do
        tries=$((tries + 1))
        if [ $tries -gt 60 ]; then cat /tmp/xlb.log; exit 1; fi
        sleep 1
    done
    measure xlb_$forward 10.200.2.1 $TO_US
    kill $daemon
    wait $daemon
done
