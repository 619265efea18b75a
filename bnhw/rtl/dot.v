// The sum of one cycle of one processing element: SIMD activations times SIMD weights. Combinational.
//
//   DATAPATH  sum
//   0 mux     sum of (w ? x : -x)
//   1 and     sum of (w ? x : 0)
//   2 xnor    number of lanes in use where w equals x; ACT_BITS is 1
//   3 mul     sum of w * x, w signed in two's complement, at least 2 bits
//
// x is unsigned, and 0 in lanes that are not in use; WEIGHT_BITS is 1 but for mul. SUM_BITS holds every sum with its
// sign: ACT_BITS + log2(SIMD) + 1 for mux and and, log2(SIMD) + 2 for xnor, ACT_BITS + WEIGHT_BITS + log2(SIMD) for mul.
module dot #(
    parameter DATAPATH = 0,
    parameter SIMD = 16,
    parameter ACT_BITS = 4,
    parameter WEIGHT_BITS = 1,
    parameter SUM_BITS = 9
) (
    input [SIMD*ACT_BITS-1:0] x,
    input [SIMD*WEIGHT_BITS-1:0] w,
    input [SIMD-1:0] used,
    output signed [SUM_BITS-1:0] sum
);
    reg [SUM_BITS-1:0] total;
    integer lane;
    assign sum = total;

    generate
        if (DATAPATH == 3) begin : multiplied
            // The sign bit of w counts -2^(WEIGHT_BITS-1): unsigned products and one masked sum are smaller than signed
            // products, whose partial products would each be extended by their signs.
            reg [SUM_BITS-1:0] products;
            reg [SUM_BITS-1:0] masked;
            always @* begin
                products = 0;
                masked = 0;
                for (lane = 0; lane < SIMD; lane = lane + 1) begin
                    products = products
                        + {{(SUM_BITS-ACT_BITS){1'b0}}, x[lane*ACT_BITS +: ACT_BITS]}
                        * {{(SUM_BITS-WEIGHT_BITS+1){1'b0}}, w[lane*WEIGHT_BITS +: WEIGHT_BITS-1]};
                    masked = masked
                        + {{(SUM_BITS-ACT_BITS){1'b0}},
                           x[lane*ACT_BITS +: ACT_BITS] & {ACT_BITS{w[lane*WEIGHT_BITS+WEIGHT_BITS-1]}}};
                end
                total = products - (masked << (WEIGHT_BITS - 1));
            end
        end else if (DATAPATH == 2) begin : agreeing
            always @* begin
                total = 0;
                for (lane = 0; lane < SIMD; lane = lane + 1)
                    total = total + {{(SUM_BITS-1){1'b0}}, used[lane] & ~(x[lane] ^ w[lane])};
            end
        end else if (DATAPATH == 1) begin : masked
            always @* begin
                total = 0;
                for (lane = 0; lane < SIMD; lane = lane + 1)
                    total = total + {{(SUM_BITS-ACT_BITS){1'b0}}, x[lane*ACT_BITS +: ACT_BITS] & {ACT_BITS{w[lane]}}};
            end
        end else begin : selected
            reg [SUM_BITS-1:0] value;
            always @* begin
                total = 0;
                value = 0;
                for (lane = 0; lane < SIMD; lane = lane + 1) begin
                    value = {{(SUM_BITS-ACT_BITS){1'b0}}, x[lane*ACT_BITS +: ACT_BITS]};
                    total = total + (w[lane] ? value : -value);
                end
            end
        end
        if (DATAPATH != 2) begin : all_lanes
            wire unused = &{1'b0, used};
        end
    endgenerate
endmodule
