// The array: PE dot products of SIMD inputs a cycle. Stage 1 in, stage 2 out: `term` is what a cycle adds to each
// accumulator, before the shift of its plane. Datapaths: see dot.v.
module array #(
    parameter DATAPATH = 0,
    parameter PE = 4,
    parameter SIMD = 16,
    parameter ACT_BITS = 4,
    parameter WEIGHT_BITS = 1,
    parameter SUM_BITS = 9
) (
    input clk,
    input valid,
    input in_image,                     // the tap lies in the image
    input [15:0] lanes,               // inputs that hold channels of the tensor
    input bipolar,
    input padding_zero,               // a padded tap adds 0
    input [ACT_BITS-1:0] padding,     // this plane of the padding code
    input [SIMD*ACT_BITS-1:0] stored,
    input [PE*SIMD*WEIGHT_BITS-1:0] weights,
    output [PE*(SUM_BITS+2)-1:0] terms
);
    localparam TERM_BITS = SUM_BITS + 2;

    wire [SIMD*ACT_BITS-1:0] x;
    wire [SIMD-1:0] used;
    genvar lane, pe;
    generate
        for (lane = 0; lane < SIMD; lane = lane + 1) begin : inputs
            localparam [15:0] NUMBER = lane;
            wire [ACT_BITS-1:0] code = stored[lane*ACT_BITS +: ACT_BITS];
            wire [ACT_BITS-1:0] coded = bipolar && DATAPATH != 2 ? code << 1 : code;
            assign used[lane] = NUMBER < lanes;
            assign x[lane*ACT_BITS +: ACT_BITS] = !used[lane] ? {ACT_BITS{1'b0}} : in_image ? coded : padding;
        end
    endgenerate

    // What all PEs share: the sum of x (and), the number of lanes in use (xnor).
    wire signed [TERM_BITS-1:0] shared;
    generate
        if (DATAPATH == 1) begin : sum_of_inputs
            wire signed [SUM_BITS-1:0] sum;
            reg signed [SUM_BITS-1:0] kept;
            dot #(
                .DATAPATH(1), .SIMD(SIMD), .ACT_BITS(ACT_BITS), .WEIGHT_BITS(1), .SUM_BITS(SUM_BITS)
            ) all_inputs (.x(x), .w({SIMD{1'b1}}), .used(used), .sum(sum));
            always @(posedge clk) if (valid) kept <= sum;
            assign shared = {{2{kept[SUM_BITS-1]}}, kept};
        end else if (DATAPATH == 2) begin : lanes_in_use
            reg [15:0] kept;
            always @(posedge clk) if (valid) kept <= lanes;
            wire [15+TERM_BITS:0] wide = {{TERM_BITS{1'b0}}, kept};
            assign shared = wide[TERM_BITS-1:0];
            wire unused = &{1'b0, wide};
        end else begin : nothing
            assign shared = 0;
        end
    endgenerate

    reg zero;
    always @(posedge clk) if (valid) zero <= padding_zero && !in_image;
    generate
        for (pe = 0; pe < PE; pe = pe + 1) begin : elements
            wire signed [SUM_BITS-1:0] sum;
            reg signed [SUM_BITS-1:0] kept;
            dot #(
                .DATAPATH(DATAPATH), .SIMD(SIMD), .ACT_BITS(ACT_BITS), .WEIGHT_BITS(WEIGHT_BITS), .SUM_BITS(SUM_BITS)
            ) sum_of_products (
                .x(x), .w(weights[pe*SIMD*WEIGHT_BITS +: SIMD*WEIGHT_BITS]), .used(used), .sum(sum)
            );
            always @(posedge clk) if (valid) kept <= sum;
            wire signed [TERM_BITS-1:0] wide = {{2{kept[SUM_BITS-1]}}, kept};
            wire signed [TERM_BITS-1:0] term = DATAPATH == 1 || DATAPATH == 2 ? (wide <<< 1) - shared : wide;
            assign terms[pe*TERM_BITS +: TERM_BITS] = zero ? {TERM_BITS{1'b0}} : term;
        end
        if (DATAPATH != 1 && DATAPATH != 2) begin : unshared
            wire unused = &{1'b0, shared};
        end
    endgenerate
endmodule
